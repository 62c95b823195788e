import { expect, test } from 'vitest';
import { fromBase64, toBase64 } from './base64';

test('bytes come back as they went, whatever they are', () => {
  const all = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  expect(fromBase64(toBase64(all))).toEqual(all);
  expect(toBase64(new TextEncoder().encode('ä\r'))).toBe('w6QN');
});
