import { expect, test } from 'vitest';
import { stretches } from './stretches';

const sample = (second: number, overSeconds: number, cpus: number | null) => ({
  at: new Date(second * 1_000).toISOString(),
  overMs: overSeconds * 1_000,
  cpus,
});

test('stretches that meet are one line, whether they are minutes or seconds', () => {
  const drawn = stretches([sample(60, 60, 1), sample(120, 60, 2), sample(125, 5, 3)]);
  expect(drawn.times).toEqual([60, 120, 125]);
  expect(drawn.values(({ cpus }) => cpus)).toEqual([1, 2, 3]);
});

test('where nobody looked is a gap, and what was not measured is none at all', () => {
  const drawn = stretches([sample(60, 60, 1), sample(300, 60, 2), sample(360, 60, null)]);
  expect(drawn.times).toEqual([60, 240, 300, 360]);
  expect(drawn.values(({ cpus }) => cpus)).toEqual([1, null, 2, null]);
});

test('where minutes go over to looks no gap is drawn, for it was measured; a longer one is', () => {
  expect(stretches([sample(60, 60, 1), sample(100, 5, 2)]).times).toEqual([60, 100]);
  expect(stretches([sample(60, 60, 1), sample(200, 5, 2)]).times).toEqual([60, 195, 200]);
  expect(stretches([sample(60, 5, 1), sample(100, 5, 2)]).times).toEqual([60, 95, 100]);
});
