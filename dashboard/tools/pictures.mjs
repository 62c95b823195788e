// The pictures of the documentation are made by the browser tests. This says whether they were made by these very pages.
//
// node tools/pictures.mjs check   fails if one is missing, was changed by hand, or was made by other pages or tests
// node tools/pictures.mjs stamp   writes down what they were made by; `npm run screenshots` does it
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { DOCUMENTED } from '../tests/support/documented.mjs';

const here = new URL('..', import.meta.url).pathname;
const docs = join(here, '../docs/screenshots');
const stamp = join(docs, 'made_by.json');
const sha256 = (data) => createHash('sha256').update(data).digest('hex');

function* files(at) {
  for (const name of readdirSync(at).sort()) {
    const path = join(at, name);
    if (statSync(path).isDirectory()) yield* files(path);
    else yield path;
  }
}

/** All that decides what the pages look like and what is on them. */
function pages() {
  const all = [
    ...files(join(here, 'src')),
    join(here, 'index.html'),
    join(here, 'package-lock.json'),
    join(here, 'tests/screens.test.mjs'),
    ...files(join(here, 'tests/support')),
  ];
  const hash = createHash('sha256');
  for (const path of all) {
    if (/\.test\.tsx?$|schema\.d\.ts$|\.js$/.test(path) && !path.includes('/tests/')) continue;
    hash.update(`${relative(here, path)}\0${sha256(readFileSync(path))}\n`);
  }
  return hash.digest('hex');
}

function pictures() {
  const found = readdirSync(docs).filter((name) => name.endsWith('.png'));
  return Object.fromEntries(found.sort().map((name) => [name, sha256(readFileSync(join(docs, name)))]));
}

if (process.argv[2] === 'stamp') {
  writeFileSync(stamp, `${JSON.stringify({ pages: pages(), pictures: pictures() }, null, 2)}\n`);
} else {
  const wrong = [];
  const made = existsSync(stamp) ? JSON.parse(readFileSync(stamp, 'utf8')) : { pages: '', pictures: {} };
  const there = pictures();
  const wanted = DOCUMENTED.map((name) => `${name}.png`);
  for (const name of wanted) if (!(name in there)) wrong.push(`${name} is missing`);
  for (const [name, hash] of Object.entries(there)) {
    if (!wanted.includes(name)) wrong.push(`${name} is made by no test`);
    else if (made.pictures[name] !== hash) wrong.push(`${name} is not as the tests made it`);
  }
  if (made.pages !== pages()) wrong.push('they were made by other pages or tests than these');
  const shown = [...readFileSync(join(here, '../README.md'), 'utf8').matchAll(/docs\/screenshots\/([\w-]+\.png)/g)];
  const inReadme = new Set(shown.map(([, name]) => name));
  for (const name of inReadme) if (!wanted.includes(name)) wrong.push(`the README shows ${name}, which no test makes`);
  if (inReadme.size < 3) wrong.push(`the README shows ${inReadme.size} pictures, not three`);
  if (wrong.length > 0) {
    console.error(`docs/screenshots: ${wrong.join('; ')}. Renew them with \`make screenshots\`, and look at them.`);
    process.exit(1);
  }
  console.log(`${wanted.length} pictures of the documentation are of these pages`);
}
