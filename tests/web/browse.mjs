// Look at a page: `node browse.mjs < job.json`. Writes one line of JSON for each look.
import fs from 'node:fs';
import { createRequire } from 'node:module';

const { url, modules, browser: executablePath, out, looks } = JSON.parse(fs.readFileSync(0, 'utf8'));
const require = createRequire(modules);
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const timeout = 600_000; // that something never happens, however busy the machine is
const browser = await chromium.launch({ executablePath, timeout, args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'] });
for (const { name, width, colorScheme } of looks) {
  const tab = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
  tab.setDefaultTimeout(timeout);
  const said = [];
  const asked = [];
  tab.on('console', (message) => said.push(message.text()));
  tab.on('pageerror', (error) => said.push(String(error)));
  tab.on('request', (request) => asked.push(new URL(request.url()).origin));
  await tab.goto(url);
  // Not by a script element, which the page's policy forbids.
  await tab.evaluate(axe);
  const { violations } = await tab.evaluate(() => window.axe.run());
  const wide = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  await tab.screenshot({ path: `${out}/${name}.png`, fullPage: true });
  const wrong = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`);
  console.log(JSON.stringify({ name, said, asked, wrong, wide, text: await tab.innerText('main') }));
  await tab.close();
}
await browser.close();
