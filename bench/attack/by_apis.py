"""What an API can do to the exporter, and to the other orgs in it."""

from __future__ import annotations

from bench.attack.stage import Attack

ATTACKS = (
    Attack("honest", "nothing: two honest orgs"),
    Attack("one_byte_chunks", "chunks of one byte, without end", "one_byte_chunks"),
    Attack("interim_answers", "answers 100 Continue, without end", "interim_answers"),
    Attack("empty_gzip", "empty gzip members, without end", "empty_gzip"),
    Attack("error_array", "15 MiB of an error that is no strict JSON", "error_array"),
    Attack("outputs_array", "15 MiB of brackets that are no strict JSON", "outputs_array"),
    Attack("brackets", "15 MiB of brackets that never close", "brackets"),
    Attack("wide_error", "15 MiB of an error with one emoji", "wide_error"),
    Attack("usage", "a usage of 15 MiB", "usage"),
    Attack("large", "20 orgs with 15 MiB each", "large", orgs=21),
    Attack("rows", "a small gzip answer of 5,000,000 rows", "rows"),
    Attack("slow", "three large bodies that drip", "slow", orgs=4),
    Attack("cookies", "20 cookies of 4 KB", "cookies"),
)
