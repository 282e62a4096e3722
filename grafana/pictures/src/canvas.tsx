// The panels that Grafana does not publish, as plain as they can be: heatmap and state timeline.
import { formattedValueToString, getValueFormat, type DataFrame, type GrafanaTheme2 } from '@grafana/data';
import { useEffect, useRef } from 'react';

type Props = { panel: any; data: DataFrame[]; exemplars: any[]; range: any; step: number; width: number; height: number; theme: GrafanaTheme2 };
type Painter = (g: CanvasRenderingContext2D, props: Props, x: (at: number) => number, left: number) => void;

const BLUES = ['#f7fbff', '#c6dbef', '#6baed6', '#2171b5', '#08306b'];
const BOTTOM = 22;

function shade(share: number, isDark: boolean) {
  return BLUES[Math.round((BLUES.length - 1) * (isDark ? 1 - share : share))];
}

function painted(left: number, paint: Painter) {
  return function Painted(props: Props) {
    const canvas = useRef<HTMLCanvasElement>(null);
    useEffect(() => {
      const { width, height, theme, range } = props;
      const g = canvas.current!.getContext('2d')!;
      const [from, to] = [range.from.valueOf(), range.to.valueOf()];
      const x = (at: number) => left + ((at - from) / (to - from)) * (width - left - 8);
      g.clearRect(0, 0, width, height);
      g.font = `12px ${theme.typography.fontFamily}`;
      g.textBaseline = 'middle';
      paint(g, props, x, left);
      g.fillStyle = theme.colors.text.secondary;
      g.textAlign = 'center';
      const hours = width > 700 ? 1 : 2;
      for (let at = Math.ceil(from / 3.6e6) * 3.6e6; at < to; at += hours * 3.6e6) g.fillText(new Date(at).toISOString().slice(11, 16), x(at), height - BOTTOM / 2);
    });
    return <canvas ref={canvas} width={props.width} height={props.height} />;
  };
}

export const Heatmap = painted(52, (g, { panel, data, exemplars, height, theme, step }, x, left) => {
  const rows = data.map((frame) => ({ bound: frame.name === '+Inf' ? Infinity : Number(frame.name), times: frame.fields[0].values, counts: frame.fields[1].values })).sort((a, b) => a.bound - b.bound);
  const format = getValueFormat(panel.options.yAxis.unit);
  const tall = (height - BOTTOM) / Math.max(1, rows.length);
  const cells = rows.map((row, index) => row.counts.map((count: number, at: number) => Math.max(0, count - (rows[index - 1]?.counts[at] ?? 0))));
  const most = Math.max(1e-9, ...cells.flat());
  const top = (index: number) => height - BOTTOM - (index + 1) * tall;
  rows.forEach((row, index) => {
    g.fillStyle = theme.colors.text.secondary;
    g.textAlign = 'right';
    if (index % Math.ceil(16 / tall) === 0) g.fillText(Number.isFinite(row.bound) ? formattedValueToString(format(row.bound)) : '+Inf', left - 6, Math.max(8, top(index)));
    cells[index].forEach((count: number, at: number) => {
      if (!count) return;
      g.fillStyle = shade(Math.sqrt(count / most), theme.isDark);
      const begin = Math.max(left, x(row.times[at] - step * 1000));
      g.fillRect(begin, top(index), x(row.times[at]) - begin - 1, tall - 1);
    });
  });
  g.fillStyle = theme.visualization.getColorByName('purple');
  for (const one of exemplars) {
    const index = rows.findIndex((row) => one.value <= row.bound);
    g.fillRect(x(one.timestamp * 1000) - 2, top(index) + tall / 2 - 2, 5, 5);
  }
});

export const Timeline = painted(110, (g, { panel, data, height, theme, step }, x, left) => {
  const states = panel.fieldConfig.defaults.mappings[0].options;
  const tall = (height - BOTTOM) / Math.max(1, data.length);
  data.forEach((frame, index) => {
    g.fillStyle = theme.colors.text.primary;
    g.textAlign = 'right';
    if (index % Math.ceil(14 / tall) === 0) g.fillText(String(frame.name).slice(0, 16), left - 8, (index + 0.5) * tall);
    frame.fields[0].values.forEach((at: number, point: number) => {
      g.fillStyle = theme.visualization.getColorByName(states[frame.fields[1].values[point]].color);
      g.fillRect(Math.floor(x(at)), (index + 0.1) * tall, Math.ceil(x(at + step * 1000) - x(at)) + 1, 0.8 * tall);
    });
  });
});
