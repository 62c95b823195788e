// Puts a compressed copy beside each built file that gains by it; the gateway sends whichever the browser takes.
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const dist = new URL('../dist', import.meta.url).pathname;
/** Below this a copy costs more in headers and files than it saves. */
const MIN_BYTES = 700;
/** The page itself is filled in by the gateway for each answer, so it is never sent from a copy. */
const TEXTS = /\.(js|css|svg|json|map|wasm|ttf)$/;

for (const entry of readdirSync(dist, { recursive: true })) {
  const path = join(dist, entry);
  if (!statSync(path).isFile() || !TEXTS.test(path)) continue;
  const raw = readFileSync(path);
  if (raw.length < MIN_BYTES) continue;
  const quality = raw.length > 2_000_000 ? 9 : 11;
  const params = { [constants.BROTLI_PARAM_QUALITY]: quality, [constants.BROTLI_PARAM_SIZE_HINT]: raw.length };
  for (const [ending, packed] of [
    ['br', brotliCompressSync(raw, { params })],
    ['gz', gzipSync(raw, { level: 9 })],
  ]) {
    if (packed.length < raw.length * 0.95) writeFileSync(`${path}.${ending}`, packed);
  }
}
