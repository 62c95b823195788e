import { expect, test } from 'vitest';
import { bars } from './waterfall';

const at = (ms: number) => new Date(ms).toISOString();

test('an attempt is shown as it waited, was assigned and ran', () => {
  const parts = bars({ assignedAt: at(1_000), startedAt: at(1_500), endedAt: at(4_000) }, 200, 9_000);
  expect(parts.map(({ kind, from, to }) => [kind, from, to])).toEqual([
    ['wait', 200, 1_000],
    ['assigned', 1_000, 1_500],
    ['run', 1_500, 4_000],
  ]);
});

test('one that runs goes on to now, and one that never began has not run', () => {
  expect(bars({ assignedAt: at(1_000), startedAt: at(1_500), endedAt: null }, 1_000, 2_000).at(-1)).toMatchObject({
    kind: 'run',
    to: 2_000,
  });
  expect(
    bars({ assignedAt: at(1_000), startedAt: null, endedAt: at(3_000) }, 1_000, 9_000).map(({ kind }) => kind),
  ).toEqual(['assigned']);
});

test('clocks of two hosts that differ make no bar that runs backwards', () => {
  for (const bar of bars({ assignedAt: at(1_000), startedAt: at(900), endedAt: at(800) }, 1_200, 2_000)) {
    expect(bar.to).toBeGreaterThan(bar.from);
  }
});
