import { expect, test } from 'vitest';
import { cpuShares } from './cpu';

const at = (seconds: number, cpuSecondsTotal: number) => ({
  at: new Date(1_700_000_000_000 + seconds * 1_000).toISOString(),
  cpuSecondsTotal,
});

test('a share is what was used between two looks', () => {
  expect(cpuShares([at(0, 1), at(5, 3.5), at(10, 3.5)])).toEqual([null, 0.5, 0]);
});

test('nothing is said of a time that was not measured, or where counting began again', () => {
  expect(cpuShares([at(0, 1), at(60, 2), at(65, 0.5), at(65, 1)])).toEqual([null, null, null, null]);
  expect(cpuShares([])).toEqual([]);
});
