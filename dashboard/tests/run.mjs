// Runs the browser tests against HIVEWARD_BIN, two files at a time: each has a node and a browser of its own.
//
// node tests/run.mjs [FILE…]    DASHBOARD_SCREENSHOTS=1 writes the documentation's pictures
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const here = new URL('.', import.meta.url).pathname;
const binary = process.env.HIVEWARD_BIN;
if (!binary || !existsSync(binary)) {
  console.error('HIVEWARD_BIN must name a built hiveward with the dashboard in it, such as target/debug/hiveward');
  process.exit(2);
}
if (!existsSync(join(here, '../dist/app/index.html'))) {
  console.error('the dashboard is not built: npm run build');
  process.exit(2);
}
const named = process.argv.slice(2);
const files = readdirSync(here).filter(
  (file) => file.endsWith('.test.mjs') && (named.length === 0 || named.some((name) => file.startsWith(name))),
);
const ran = spawnSync(
  process.execPath,
  [
    '--test',
    '--test-concurrency=2',
    '--test-timeout=900000',
    '--test-force-exit',
    '--test-reporter=spec',
    ...files.map((file) => join(here, file)),
  ],
  { stdio: 'inherit' },
);
process.exit(ran.status ?? 1);
