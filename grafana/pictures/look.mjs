// Draw pictures: `node look.mjs < jobs.json`. Writes one line of JSON for each: what was seen.
import { build } from 'esbuild';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const timeout = 600_000; // that something never happens, however busy the machine is
const here = path.dirname(fileURLToPath(import.meta.url));
const { dashboards, browser: executablePath, jobs } = JSON.parse(fs.readFileSync(0, 'utf8'));
// The code editor is a part of the library that no panel needs.
const without = { name: 'without', setup: (b) => {
  b.onResolve({ filter: /monaco-editor/ }, ({ path }) => ({ path, namespace: 'without' }));
  b.onLoad({ filter: /.*/, namespace: 'without' }, () => ({ contents: 'module.exports = new Proxy({}, { get: () => () => null });' }));
} };
await build({
  absWorkingDir: here, entryPoints: ['src/page.tsx'], outfile: 'out/page.js', bundle: true, minify: true, jsx: 'automatic', logLevel: 'error', plugins: [without],
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: Object.fromEntries(['.svg', '.woff', '.woff2', '.ttf', '.png', '.gif'].map((end) => [end, 'dataurl'])),
});

const types = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json' };
const page = '<!doctype html><link rel=stylesheet href=/page.css><body style="margin:0"><div id=root></div><script src=/page.js></script>';
const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://here');
  const file = { dashboards, img: `${here}/node_modules/@grafana/ui/dist/public/img` }[pathname.split('/')[1]];
  const found = file ? path.join(file, pathname.split('/').slice(2).join('/')) : path.join(here, 'out', path.basename(pathname));
  const exists = fs.existsSync(found) && fs.statSync(found).isFile();
  response.statusCode = pathname === '/' || exists ? 200 : 404;
  response.setHeader('content-type', pathname === '/' ? 'text/html; charset=utf-8' : (types[path.extname(found)] ?? 'text/plain'));
  response.end(pathname === '/' ? page : exists ? fs.readFileSync(found) : '');
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));

/** Look for what a person would trip over; runs in the page. */
function flaws() {
  const panels = [...document.querySelectorAll('[data-panel]')].map((node) => [node.dataset.panel, node]);
  const wider = (node) => node && node.scrollWidth > node.clientWidth + 1;
  const legend = (node) => node.querySelectorAll('[data-testid^="data-testid VizLegend series"]').length;
  return [
    ...panels.filter(([, node]) => wider(node.querySelector('h2'))).map(([name]) => `${name}: its title is cut`),
    ...panels.filter(([, node]) => wider(node.querySelector('[role=grid]'))).map(([name]) => `${name}: its table is wider than the panel`),
    ...panels.filter(([, node]) => legend(node) > 10).map(([name, node]) => `${name}: ${legend(node)} entries in its legend`),
  ];
}

const browser = await chromium.launch({ executablePath, timeout, args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'] });
for (const job of jobs) {
  const tab = await browser.newPage({ viewport: { width: job.width, height: 1080 }, timezoneId: 'UTC' });
  tab.setDefaultTimeout(timeout);
  const said = [];
  tab.on('pageerror', (error) => said.push(String(error)));
  if (job.vision) await (await tab.context().newCDPSession(tab)).send('Emulation.setEmulatedVisionDeficiency', { type: job.vision });
  await tab.goto(`http://127.0.0.1:${server.address().port}/?${new URLSearchParams(job.page)}`);
  await tab.waitForFunction(() => window.seen?.pending === 0 && document.querySelector('[data-panel]'));
  await tab.evaluate(async () => {
    await document.fonts.ready;
    for (let frames = 0; frames < 20; frames += 1) await new Promise(requestAnimationFrame);
  });
  const seen = await tab.evaluate(() => window.seen);
  const found = await tab.evaluate(flaws);
  await tab.screenshot({ path: job.out, fullPage: job.whole ?? true });
  console.log(JSON.stringify({ ...seen, flaws: found, errors: [...seen.errors, ...said], out: job.out }));
  await tab.close();
}
await browser.close();
server.close();
