// One dashboard, drawn by Grafana's own components as its core panels draw it.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import {
  applyFieldOverrides, cacheFieldDisplayNames, createTheme, EventBusSrv, FieldConfigOptionsRegistry, getDisplayValueAlignmentFactors, getFieldDisplayName,
  getFieldDisplayValues, identityOverrideProcessor, numberOverrideProcessor, standardTransformers, standardTransformersRegistry, thresholdsOverrideProcessor,
  transformDataFrame, unitOverrideProcessor, valueMappingsOverrideProcessor, dataLinksOverrideProcessor, displayNameOverrideProcessor, VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, PanelContextProvider, ThemeContext, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import 'uplot/dist/uPlot.min.css';
import { Heatmap, Timeline } from './canvas';
import { between, choose, chosen, fill, framesOf, marksOf, NOW, RANGE, seen } from './prometheus';

const asked = new URLSearchParams(location.search);
const theme = createTheme({ colors: { mode: asked.get('theme') as 'dark' | 'light' } });
Object.assign(window, { seen, grafanaBootData: { settings: { featureToggles: {}, theme: {}, panels: {} }, user: {} }, __grafana_public_path__: '/' });
// By id, since the library names some of them twice.
const transformers = new Map(Object.values(standardTransformers).map((one: any) => [one.id, { id: one.id, transformation: one, name: one.name }]));
standardTransformersRegistry.setInit(() => [...transformers.values()].filter((one) => one.id) as any);

// ---- the defaults that the core panels declare for their fields
const HIDE = { tooltip: false, viz: false, legend: false };
const CUSTOM: Record<string, Record<string, unknown>> = {
  timeseries: {
    drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, fillOpacity: 0, gradientMode: 'none', barAlignment: 0, barWidthFactor: 0.6, barMaxWidth: undefined,
    stacking: { mode: 'none', group: 'A' }, showPoints: 'auto', pointSize: 5, spanNulls: false, insertNulls: false, showValues: false, axisPlacement: 'auto', axisLabel: '',
    axisColorMode: 'text', axisBorderShow: false, scaleDistribution: { type: 'linear' }, axisCenteredZero: false, hideFrom: HIDE, thresholdsStyle: { mode: 'off' }, axisSoftMax: undefined,
  },
  table: { align: 'auto', cellOptions: { type: 'auto' }, inspect: false, 'hideFrom.viz': undefined, width: undefined },
};
const PROCESSORS: Record<string, any> = {
  unit: unitOverrideProcessor, min: numberOverrideProcessor, max: numberOverrideProcessor, decimals: numberOverrideProcessor, displayName: displayNameOverrideProcessor,
  noValue: identityOverrideProcessor, color: identityOverrideProcessor, thresholds: thresholdsOverrideProcessor, mappings: valueMappingsOverrideProcessor, links: dataLinksOverrideProcessor,
};
const item = (id: string, path: string, process: any, isCustom: boolean) => ({ id, path, name: id, process, isCustom, override: () => null, editor: () => null, shouldApply: () => true, settings: {} });

function dressed(panel: any, data: any[]) {
  const defaults = panel.fieldConfig.defaults;
  const custom = { ...CUSTOM[panel.type], ...defaults.custom };
  if (custom.stacking) custom.stacking = { group: 'A', ...custom.stacking };
  const color = { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  const fieldConfig = { defaults: { color, mappings: [], ...defaults, custom }, overrides: panel.fieldConfig.overrides };
  const registry = new FieldConfigOptionsRegistry(() => [
    ...Object.entries(PROCESSORS).map(([id, process]) => item(id, id, process, false)),
    ...Object.keys(CUSTOM[panel.type] ?? {}).map((id) => item(`custom.${id}`, id, identityOverrideProcessor, true)),
  ] as any);
  const applied = applyFieldOverrides({ data, fieldConfig, theme, replaceVariables: fill, timeZone: 'utc', fieldConfigRegistry: registry } as any);
  cacheFieldDisplayNames(applied);
  return { data: applied, fieldConfig };
}

// ---- panels
const Empty = ({ text }: { text: string }) => <div style={{ height: '100%', display: 'grid', placeItems: 'center', color: theme.colors.text.secondary }}>{text}</div>;

function Panel({ panel, marks, width, height }: any) {
  const [drawn, setDrawn] = useState<any>();
  useEffect(() => {
    seen.pending += 1;
    (async () => {
      try {
        const found = await framesOf(panel, width);
        const merged = panel.transformations?.length ? await lastValueFrom(transformDataFrame(panel.transformations, found.frames, { interpolate: fill } as any)) : found.frames;
        setDrawn({ ...found, ...dressed(panel, merged) });
      } catch (error) {
        seen.errors.push(`${panel.title}: ${error}`);
        setDrawn({ failed: String(error) });
      }
    })();
  }, []);
  // What is within has said by now what is seen.
  useEffect(() => {
    if (!drawn) return;
    seen.pending -= 1;
    seen.seconds = performance.now() / 1000;
  }, [drawn]);
  const month = panel.timeFrom && <PanelChrome.TitleItem><span style={{ fontSize: 12, color: theme.colors.text.link, whiteSpace: 'nowrap' }}>This month so far</span></PanelChrome.TitleItem>;
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height} titleItems={month} padding={panel.type === 'table' ? 'none' : 'md'}>
      {(w: number, h: number) => (drawn?.failed ? <Empty text={drawn.failed} /> : drawn ? <Viz panel={panel} drawn={drawn} marks={marks} w={w} h={h} /> : <div />)}
    </PanelChrome>
  );
}

function Viz({ panel, drawn, marks, w, h }: any) {
  const { data, range, fieldConfig } = drawn;
  const options = panel.options ?? {};
  const isEmpty = !data.length || data.every((frame: any) => !frame.length);
  const values = () => getFieldDisplayValues({ fieldConfig, reduceOptions: options.reduceOptions, replaceVariables: fill, theme, data, timeZone: 'utc' } as any);
  const repeated = { getValues: values, getAlignmentFactors: getDisplayValueAlignmentFactors as any, width: w, height: h, source: data, renderCounter: 0 };
  useEffect(() => note(panel, drawn, values), []);
  if (panel.type === 'stat')
    return <VizRepeater {...repeated} itemSpacing={3} autoGrid orientation={options.orientation} renderValue={({ value, count, alignmentFactors, width, height }: any) => (
      <BigValue value={value.display} count={count} colorMode={options.colorMode} graphMode={options.graphMode} justifyMode={options.justifyMode} textMode={isEmpty ? 'auto' : options.textMode}
        alignmentFactors={alignmentFactors} width={width} height={height} theme={theme} disableWideLayout={!options.wideLayout} text={options.text} />)} />;
  if (isEmpty) return <Empty text={fieldConfig.defaults.noValue ?? 'No data'} />;
  if (panel.type === 'bargauge')
    return <VizRepeater {...repeated} minVizHeight={options.minVizHeight} maxVizHeight={options.maxVizHeight} itemSpacing={10} orientation={VizOrientation.Horizontal} renderValue={({ value, alignmentFactors, width, height, orientation }: any) => (
      <BarGauge value={value.display} width={width} height={height} orientation={orientation} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)} theme={theme}
        displayMode={options.displayMode} alignmentFactors={alignmentFactors} showUnfilled={options.showUnfilled} valueDisplayMode={options.valueMode} namePlacement={options.namePlacement} isOverflow={false} text={options.text} />)} />;
  if (panel.type === 'table')
    return <TableNG {...({ data: data[0], width: w, height: h, noHeader: !options.showHeader, initialSortBy: options.sortBy, cellHeight: options.cellHeight, structureRev: 1, fieldConfig, timeRange: range,
      enableVirtualization: true, resizable: true, onColumnResize: () => {}, onSortByChange: () => {}, getActions: () => [] } as any)} />;
  const Painted = { heatmap: Heatmap, 'state-timeline': Timeline }[panel.type as string];
  if (Painted) return <Painted panel={panel} {...drawn} width={w} height={h} theme={theme} />;
  return <TimeSeries {...({ frames: data, structureRev: 1, timeRange: range, timeZone: ['utc'], width: w, height: h, legend: options.legend, options, theme } as any)}>
    {(config: any) => { config.addHook('drawAxes', (plot: any) => draw(plot, marks)); config.addHook('draw', (plot: any) => dot(plot, drawn.exemplars)); return null; }}
  </TimeSeries>;
}

function draw(plot: any, marks: any[]) {
  const { ctx, bbox } = plot;
  for (const mark of marks) {
    const x = plot.valToPos(mark.at * 1000, 'x', true);
    ctx.fillStyle = theme.visualization.getColorByName(mark.color);
    ctx.globalAlpha = 0.6;
    for (let y = bbox.top; y < bbox.top + bbox.height; y += 8) ctx.fillRect(x, y, 1, 4);
    ctx.globalAlpha = 1;
    ctx.fillRect(x - 3, bbox.top + bbox.height, 7, 4);
  }
}

/** Exemplars are diamonds at their time and value, as Grafana draws them. */
function dot(plot: any, exemplars: any[]) {
  const { ctx } = plot;
  const scale = plot.series.at(-1).scale;
  ctx.save();
  for (const one of exemplars) {
    ctx.translate(plot.valToPos(one.timestamp * 1000, 'x', true), plot.valToPos(one.value, scale, true));
    ctx.rotate(Math.PI / 4);
    ctx.fillStyle = theme.visualization.getColorByName('purple');
    ctx.fillRect(-4, -4, 8, 8);
    ctx.strokeStyle = theme.colors.background.primary;
    ctx.strokeRect(-4, -4, 8, 8);
    ctx.resetTransform();
  }
  ctx.restore();
}

/** Say what is seen, for the checks. */
function note(panel: any, { data, fieldConfig }: any, values: () => any[]) {
  if (panel.type === 'stat') for (const { display } of values()) seen.tiles.push({ panel: panel.title, text: [display.title, display.text + (display.suffix ?? '')].filter(Boolean).join(' '), color: display.color });
  if (panel.type === 'table') seen.rows[panel.title] = Array.from({ length: data[0]?.length ?? 0 }, (_, row) => data[0].fields.map((field: any) => field.display!(field.values[row]).text));
  if (fieldConfig.defaults.custom?.drawStyle === 'bars')
    seen.bars[panel.title] = Object.fromEntries(data.map((frame: any) => [getFieldDisplayName(frame.fields[1], frame, data), frame.fields[1].values.reduce((sum: number, value: number) => sum + (value || 0), 0)]));
}

// ---- the page
const [MARGIN, GAP, ROW] = [16, 8, 38];
function Dashboard({ board, marks }: any) {
  const column = (window.innerWidth - 2 * MARGIN - 23 * GAP) / 24;
  useEffect(() => { seen.pending -= 1; }, []); // each panel is pending by now
  const isOpen = asked.get('open') === 'true';
  let shift = 0;
  const panels = board.panels.flatMap((panel: any) => {
    const inner = isOpen ? (panel.panels ?? []) : [];
    const placed = [panel, ...inner].map((one: any) => ({ ...one, y: one.gridPos.y + shift }));
    if (inner.length) shift += Math.max(...inner.map((one: any) => one.gridPos.y + one.gridPos.h)) - panel.gridPos.y - 1;
    return placed;
  });
  const rows = Math.max(...panels.map((panel: any) => panel.y + panel.gridPos.h));
  const box = { padding: '6px 8px', border: `1px solid ${theme.colors.border.medium}`, borderRadius: 4, fontSize: 12 };
  return (
    <div style={{ background: theme.colors.background.canvas, minHeight: '100vh', color: theme.colors.text.primary }}>
      <div style={{ height: 40, padding: '10px 16px', background: theme.colors.background.primary, borderBottom: `1px solid ${theme.colors.border.weak}` }}>{board.title}</div>
      <div style={{ display: 'flex', gap: 8, padding: '8px 16px', height: 48 }}>
        {Object.entries(chosen).map(([name, one]) => <span key={name} style={{ ...box, whiteSpace: 'nowrap' }}><b style={{ fontWeight: 500 }}>{one.label}</b> {one.text}</span>)}
        <span style={{ flex: 1 }} />
        <span style={box}>{new Date(NOW * 1000).toISOString().slice(0, 16).replace('T', ' ')} UTC, last {RANGE / 3600} hours</span>
      </div>
      <div style={{ position: 'relative', height: rows * ROW + GAP }}>
        {panels.map((panel: any) => {
          const { x, w, h } = panel.gridPos;
          const [width, height] = [w * column + (w - 1) * GAP, h * ROW - GAP];
          return <div key={panel.id} data-panel={panel.title} data-type={panel.type} style={{ position: 'absolute', left: MARGIN + x * (column + GAP), top: panel.y * ROW, width, height }}>
            {panel.type === 'row' ? <div style={{ padding: '4px 0', fontWeight: 500 }}>{panel.collapsed && !isOpen ? '›' : '⌄'} {panel.title}</div> : <Panel panel={panel} marks={marks} width={width} height={height} />}
          </div>;
        })}
      </div>
    </div>
  );
}

(async () => {
  seen.pending += 1;
  const board = await (await fetch(`/dashboards/${asked.get('dashboard')}.json`)).json();
  await choose(board.templating.list);
  const marks = await marksOf(board.annotations.list);
  const context: any = { eventsScope: 'page', eventBus: new EventBusSrv(), sync: () => 1, canAddAnnotations: () => false, canEditThresholds: () => false };
  createRoot(document.getElementById('root')!).render(
    <ThemeContext.Provider value={theme}><GlobalStyles /><PanelContextProvider value={context}><Dashboard board={board} marks={marks} /></PanelContextProvider></ThemeContext.Provider>
  );
})();
