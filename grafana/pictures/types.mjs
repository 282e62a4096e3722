// Check dashboards against the types that Grafana publishes: `node types.mjs FOLDER`.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const panels = { bargauge: 'BarGauge', heatmap: 'Heatmap', stat: 'Stat', statetimeline: 'StateTimeline', table: 'Table', timeseries: 'TimeSeries' };
const composable = `${here}/node_modules/@grafana/schema/dist/types/raw/composable`;
let text = `import type { Dashboard } from '@grafana/schema';
// A JSON file has the texts of which the types make enumerations; a query has fields of its data source.
type Plain<T> = T extends { refId: string } ? { refId: string; [Key: string]: unknown } : T extends string ? \`\${T}\` : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T;
`;
for (const [folder, name] of Object.entries(panels)) {
  const [version] = fs.readdirSync(`${composable}/${folder}/panelcfg`);
  text += `import type * as ${folder} from '../node_modules/@grafana/schema/dist/types/raw/composable/${folder}/panelcfg/${version}/${name}PanelCfg_types.gen';\n`;
}
const hasFields = new Set(['heatmap', 'statetimeline', 'table', 'timeseries']);
let count = 0;
for (const file of fs.readdirSync(process.argv[2])) {
  const board = JSON.parse(fs.readFileSync(path.join(process.argv[2], file), 'utf8'));
  // What Grafana reads and writes itself beside its types.
  for (const annotation of board.annotations.list) delete annotation.titleFormat;
  for (const variable of board.templating.list) delete variable.definition;
  text += `export const board${(count += 1)}: Plain<Dashboard> = ${JSON.stringify(board)};\n`;
  for (const panel of board.panels.flatMap((one) => (one.type === 'row' ? one.panels ?? [] : [one]))) {
    const kind = panel.type.replace('-', '');
    text += `export const options${(count += 1)}: Plain<Partial<${kind}.Options>> = ${JSON.stringify(panel.options ?? {})};\n`;
    if (hasFields.has(kind)) text += `export const fields${count}: Plain<Partial<${kind}.FieldConfig>> = ${JSON.stringify(panel.fieldConfig.defaults.custom ?? {})};\n`;
  }
}
fs.mkdirSync(`${here}/out`, { recursive: true });
fs.writeFileSync(`${here}/out/dashboards.ts`, text);
execFileSync(`${here}/node_modules/.bin/tsc`, ['--noEmit', '--strict', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler', `${here}/out/dashboards.ts`], { stdio: 'inherit' });
