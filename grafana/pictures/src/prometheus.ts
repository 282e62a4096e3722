// What Grafana's Prometheus data source does with a dashboard's queries, as far as these use it.
import { dateTime, FieldType, rangeUtil, toDataFrame, type DataFrame, type TimeRange } from '@grafana/data';

const asked = new URLSearchParams(location.search);
const PROMETHEUS = asked.get('prometheus')!;
const SCRAPE = 60;
export const NOW = Number(asked.get('now'));
export const RANGE = rangeUtil.intervalToSeconds(asked.get('range') ?? '6h');

/** What the checks read: filled while the page is drawn. */
export const seen = {
  pending: 0,
  seconds: 0,
  errors: [] as string[],
  queries: [] as { panel: string; path: string; parameters: object; seconds: number }[],
  tiles: [] as { panel: string; text: string; color: string }[],
  bars: {} as Record<string, Record<string, number>>,
  rows: {} as Record<string, string[][]>,
  exemplars: {} as Record<string, object[]>,
};

export async function ask(panel: string, path: string, parameters: Record<string, string | number>) {
  const begin = performance.now();
  const body = new URLSearchParams(Object.entries(parameters).map(([key, value]) => [key, String(value)]));
  const answer = await (await fetch(`${PROMETHEUS}/api/v1/${path}`, { method: 'POST', body })).json();
  seen.queries.push({ panel, path, parameters, seconds: (performance.now() - begin) / 1000 });
  if (answer.status !== 'success') throw new Error(answer.error);
  return answer.data;
}

// ---- variables: all of them, or the first where a dashboard offers no All
export const chosen: Record<string, { label: string; value: string; text: string }> = {};

export function fill(text: string, builtin: Record<string, string | number> = {}): string {
  return text.replace(/\$\{(\w+)(?::\w+)?\}|\$(\w+)/g, (all, long, short) => {
    const name = long ?? short;
    return String(builtin[name] ?? chosen[name]?.value ?? all);
  });
}

const series = (metric: Record<string, string>) =>
  `{${Object.keys(metric).sort().map((key) => `${key}="${metric[key]}"`).join(',')}}`;

export async function choose(variables: any[]) {
  for (const variable of variables) {
    const { name, label } = variable;
    const query = fill(variable.query?.query ?? '', { __range: `${RANGE}s` });
    let options: { text: string; value: string }[] = [{ text: variable.query, value: variable.query }];
    const labels = /^label_values\((.*), (\w+)\)$/.exec(query);
    const result = /^query_result\((.*)\)$/.exec(query);
    if (labels) {
      const found = await ask(name, 'series', { 'match[]': labels[1], start: NOW - RANGE, end: NOW });
      options = [...new Set<string>(found.map((one: any) => one[labels[2]]))].sort().map((value) => ({ text: value, value }));
    } else if (result) {
      const pattern = new RegExp(variable.regex.slice(1, -1));
      const found = (await ask(name, 'query', { query: result[1], time: NOW })).result;
      options = found.map((one: any) => pattern.exec(series(one.metric))?.groups).sort((a: any, b: any) => a.text.localeCompare(b.text));
    }
    const wanted = asked.get(`var-${name}`);
    const one = options.find((option) => option.value === wanted) ?? options[0] ?? { text: 'None', value: '' };
    chosen[name] = { label, ...(variable.includeAll && !wanted ? { text: 'All', value: variable.allValue } : one) };
  }
}

// ---- queries
export const between = (from: number, to: number): TimeRange => {
  const [begin, end] = [dateTime(from * 1000), dateTime(to * 1000)];
  return { from: begin, to: end, raw: { from: begin, to: end } };
};

const number = (text: string) => (text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text));

function window_(panel: any, width: number) {
  const month = new Date(NOW * 1000);
  const from = panel.timeFrom === 'now/M' ? Date.UTC(month.getUTCFullYear(), month.getUTCMonth()) / 1000 : NOW - RANGE;
  const least = Math.max(SCRAPE, panel.interval ? rangeUtil.intervalToSeconds(panel.interval) : 0);
  const step = rangeUtil.calculateInterval(between(from, NOW), Math.max(1, Math.floor(width)), `${least}s`).intervalMs / 1000;
  const rate = Math.max(step + SCRAPE, 4 * SCRAPE);
  return { from, step, builtin: { __range: `${NOW - from}s`, __interval: `${step}s`, __rate_interval: `${rate}s` } };
}

export async function framesOf(panel: any, width: number) {
  const { from, step, builtin } = window_(panel, width);
  const frames: DataFrame[] = [];
  const exemplars: { timestamp: number; value: number; labels: object }[] = [];
  for (const target of panel.targets) {
    const query = fill(target.expr, builtin);
    const range = { start: Math.ceil(from / step) * step, end: Math.floor(NOW / step) * step, step };
    const found = target.instant
      ? (await ask(panel.title, 'query', { query, time: NOW })).result
      : (await ask(panel.title, 'query_range', { query, ...range })).result;
    if (target.exemplar) {
      const lists = await ask(panel.title, 'query_exemplars', { query, start: from, end: NOW });
      exemplars.push(...lists.flatMap((one: any) => one.exemplars.map(({ value, ...rest }: any) => ({ ...rest, value: Number(value), labels: { ...one.seriesLabels, ...rest.labels } }))));
      seen.exemplars[panel.title] = exemplars.map(({ labels }) => labels);
    }
    if (target.format === 'table') {
      if (found.length) frames.push(table(target.refId, panel.targets.length > 1, found));
      continue;
    }
    for (const one of found) {
      const points = one.values ?? [one.value];
      const legend = (target.legendFormat ?? '').replace(/\{\{\s*(\w+)\s*\}\}/g, (_: string, label: string) => one.metric[label] ?? '');
      const name = legend || series(one.metric);
      frames.push(toDataFrame({ refId: target.refId, name, fields: [
        { name: 'Time', type: FieldType.time, values: points.map((point: any) => point[0] * 1000), config: { interval: step * 1000 } },
        { name: 'Value', type: FieldType.number, labels: one.metric, config: { displayNameFromDS: name }, values: points.map((point: any) => number(point[1])) },
      ] }));
    }
  }
  return { frames, exemplars, range: between(from, NOW), step };
}

function table(refId: string, isOneOfMany: boolean, found: any[]): DataFrame {
  const names = [...new Set(found.flatMap((one) => Object.keys(one.metric)))].sort();
  return toDataFrame({ refId, fields: [
    { name: 'Time', type: FieldType.time, values: found.map((one) => one.value[0] * 1000) },
    ...names.map((name) => ({ name, type: FieldType.string, values: found.map((one) => one.metric[name] ?? '') })),
    { name: isOneOfMany ? `Value #${refId}` : 'Value', type: FieldType.number, values: found.map((one) => number(one.value[1])) },
  ] });
}

export async function marksOf(annotations: any[]) {
  const marks: { at: number; color: string }[] = [];
  const step = 60;
  for (const annotation of annotations.filter((one) => one.enable && one.target)) {
    const query = fill(annotation.target.expr, { __interval: `${step}s`, __rate_interval: `${4 * SCRAPE}s`, __range: `${RANGE}s` });
    const found = await ask(annotation.name, 'query_range', { query, start: Math.ceil((NOW - RANGE) / step) * step, end: NOW, step });
    for (const one of found.result) {
      let before = 0;
      for (const [at] of one.values) {
        if (at - before > step) marks.push({ at, color: annotation.iconColor });
        before = at;
      }
    }
  }
  return marks;
}
