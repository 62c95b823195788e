// Packs each built file that gains by it, and removes the plain one: the gateway sends it packed, and unpacks it for who asks so.
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const dist = new URL('../dist', import.meta.url).pathname;
/** Below this a packed file costs more in headers than it saves. */
const MIN_BYTES = 700;
/** The page itself is filled in by the gateway for each answer, so it stays plain. */
const TEXTS = /\.(js|css|svg|json|map|wasm|ttf)$/;

for (const entry of readdirSync(dist, { recursive: true })) {
  const path = join(dist, entry);
  if (!statSync(path).isFile() || !TEXTS.test(path)) continue;
  const raw = readFileSync(path);
  if (raw.length < MIN_BYTES) continue;
  const packed = gzipSync(raw, { level: 9 });
  if (packed.length >= raw.length * 0.95) continue;
  writeFileSync(`${path}.gz`, packed);
  rmSync(path);
}
