// Fails if the first load is over its budget: the page, and all scripts and styles that it needs before a screen shows.
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const BUDGET_BYTES = 200 * 1024;

const dist = new URL('../dist/app', import.meta.url).pathname;
const manifest = JSON.parse(readFileSync(join(dist, 'manifest.json'), 'utf8'));
const files = new Set(['index.html']);

function add(name) {
  const chunk = manifest[name];
  if (!chunk || files.has(chunk.file)) return;
  files.add(chunk.file);
  for (const style of chunk.css ?? []) files.add(style);
  for (const imported of chunk.imports ?? []) add(imported);
}
add('index.html');

let total = 0;
for (const file of files) {
  const packed = gzipSync(readFileSync(join(dist, file)), { level: 9 }).length;
  total += packed;
  console.log(
    `${(packed / 1024).toFixed(1).padStart(8)} KiB  ${file} (${(statSync(join(dist, file)).size / 1024).toFixed(0)} KiB)`,
  );
}
console.log(`${(total / 1024).toFixed(1).padStart(8)} KiB  first load with gzip, of ${BUDGET_BYTES / 1024} allowed`);
for (const heavy of ['ui/graph.tsx', 'agents/terminal.tsx', 'metrics/metrics.tsx']) {
  const file = manifest[`src/${heavy}`]?.file;
  if (!file || files.has(file)) {
    console.error(`src/${heavy} must be split off from the first load`);
    process.exit(1);
  }
}
if (total > BUDGET_BYTES) {
  console.error('the first load is over its budget: split off what the first screen does not need');
  process.exit(1);
}
