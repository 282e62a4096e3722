"""The `completion` command: a script that completes commands and flags in a shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple


class Word(NamedTuple):
    """A flag, or a word that a command takes; `choices` are its values where they are known."""

    name: str
    takes_value: bool
    choices: Sequence[str]
    meaning: str


def script(shell: str, program: str, commands: Mapping[str, Sequence[Word]]) -> str:
    """Write the script of bash, zsh or fish; flags without a command are those of `serve`."""
    if shell == "fish":
        return _fish(program, commands)
    # zsh runs what is written for bash.
    before = "autoload -Uz +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return before + _bash(program, commands)


def _bash(program: str, commands: Mapping[str, Sequence[Word]]) -> str:
    every = {word.name: word for words in commands.values() for word in words}
    values = [
        f'    {name}) words="{" ".join(word.choices)}" ;;'
        for name, word in every.items()
        if word.takes_value and name.startswith("-")
    ]
    flags = [f'      {name}) words="{_first(words)}" ;;' for name, words in commands.items()]
    return f"""\
_invent_exporter() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="" words=""
  # The = of --flag=value is a word of its own.
  if [[ $word == = ]]; then
    word=""
  elif [[ $before == = ]]; then
    before="${{COMP_WORDS[COMP_CWORD-2]}}"
  fi
  if (( COMP_CWORD > 1 )); then
    command="${{COMP_WORDS[1]}}"
    [[ $command == -* ]] && command=serve
  fi
  case "$before" in
{chr(10).join(values)}
    *) case "$command" in
      "") words="{" ".join(commands)} {_first(commands["serve"])}" ;;
{chr(10).join(flags)}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _invent_exporter {program}"""


def _first(words: Sequence[Word]) -> str:
    """Name what may follow a command: its flags, and the choices of its first word."""
    names = ([word.name] if word.name.startswith("-") else word.choices for word in words)
    return " ".join(chain.from_iterable(names))


def _fish(program: str, commands: Mapping[str, Sequence[Word]]) -> str:
    known = " ".join(commands)
    lines = [f"complete -c {program} -n __fish_use_subcommand -f -a '{known}'"]
    for command, words in commands.items():
        seen = f"__fish_seen_subcommand_from {command}"
        if command == "serve":
            others = " ".join(name for name in commands if name != command)
            seen = f"not __fish_seen_subcommand_from {others}"
        for word in words:
            line = f"complete -c {program} -n '{seen}'"
            choices = f" -a '{' '.join(word.choices)}'" if word.choices else ""
            if word.name.startswith("-"):
                # -x takes one of the choices, -r any value, files too.
                value = (" -x" if choices else " -r") if word.takes_value else ""
                meaning = word.meaning.replace("\\", "\\\\").replace("'", "\\'")
                kind = "l" if word.name.startswith("--") else "s"
                line += f" -{kind} {word.name.lstrip('-')}{value}{choices} -d '{meaning}'"
            elif choices:
                line += f" -f{choices}"
            else:
                continue
            lines.append(line)
    return "\n".join(lines)
