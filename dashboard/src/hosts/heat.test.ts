import { expect, test } from 'vitest';
import { cpusUsed, cpuTimes, type HeatVm, percent, share, step } from './heat';

const host = {
  id: 'host_1',
  capacity: { cpus: 4, memoryBytes: 8_000 },
  reserved: { cpus: 8, cpusMax: 16, memoryBytes: 6_000, memoryBytesMax: 8_000 },
};
const vm = (id: string, cpuTimeNs: number | null, memoryBytes: number | null, on = 'host_1'): HeatVm => ({
  id,
  status: 'RUNNING',
  host: { id: on },
  usage: { cpuTimeNs, memoryBytes },
});

test('what is promised is held against what may be, with overcommit', () => {
  expect(share('cpu', host, [], () => undefined)).toBe(0.5);
  expect(share('memory', host, [], () => undefined)).toBe(0.75);
  expect(share('cpu', { ...host, capacity: null }, [], () => undefined)).toBeUndefined();
});

test('what is used is summed only where all of it was measured', () => {
  const vms = [vm('a', 1, 1_000), vm('b', 1, 1_000), vm('c', 1, 9_999, 'host_2')];
  expect(share('memoryUsed', host, vms, () => undefined)).toBe(0.25);
  expect(share('memoryUsed', host, [...vms, vm('d', 1, null)], () => undefined)).toBeUndefined();
  expect(share('cpuUsed', host, vms, () => 1)).toBe(0.5);
  expect(share('cpuUsed', host, vms, (id) => (id === 'a' ? 1 : undefined))).toBeUndefined();
});

test('CPUs in use are the difference of two looks, and nothing when it began anew between them', () => {
  const before = cpuTimes([vm('a', 1e9, 0), vm('b', 5e9, 0)], 1_000);
  const now = cpuTimes([vm('a', 3e9, 0), vm('b', 1e9, 0), vm('c', 9e9, 0)], 2_000);
  expect(cpusUsed('a', before, now)).toBe(2);
  expect(cpusUsed('b', before, now)).toBeUndefined();
  expect(cpusUsed('c', before, now)).toBeUndefined();
  expect(cpusUsed('a', undefined, now)).toBeUndefined();
});

test('what is not known has a look of its own', () => {
  expect([undefined, 0, 0.4, 0.6, 0.8, 1.2].map(step)).toEqual(['none', '0', '1', '2', '3', '4']);
  expect([0, 0.001, 0.5, 1.25].map(percent)).toEqual(['0 %', '<1 %', '50 %', '125 %']);
});
