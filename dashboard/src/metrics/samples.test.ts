import { expect, test } from 'vitest';
import { rate, type Sample } from './samples';

const sample = (second: number, ended: number): Sample => ({
  at: new Date(second * 1_000).toISOString(),
  tasksRunning: 0,
  tasksQueued: 0,
  tasksEndedTotal: ended,
  agentsRunning: 0,
  eventsTotal: 0,
  cpuSecondsTotal: null,
  residentBytes: null,
});

test('a rate is what was counted over the time that passed, also across a gap', () => {
  expect(rate([sample(0, 10), sample(1, 20)], 'tasksEndedTotal')).toBe(10);
  expect(rate([sample(0, 10), sample(5, 20)], 'tasksEndedTotal')).toBe(2);
});

test('a rate that was not measured is absent', () => {
  expect(rate([], 'tasksEndedTotal')).toBeUndefined();
  expect(rate([sample(0, 10)], 'tasksEndedTotal')).toBeUndefined();
  expect(rate([sample(0, 10), sample(1, 20)], 'cpuSecondsTotal')).toBeUndefined();
  // The node was started again in between and counts from zero.
  expect(rate([sample(0, 1000), sample(1, 3)], 'tasksEndedTotal')).toBeUndefined();
});
