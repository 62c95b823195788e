import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Problem } from './problem';

const heard: ((events: unknown[]) => void)[] = [];
const connected: (() => void)[] = [];
let connection = { state: 'live', epoch: 1 };
vi.mock('./feed', () => ({
  onEvents: (listener: (events: unknown[]) => void) => {
    heard.push(listener);
    return () => heard.splice(heard.indexOf(listener), 1);
  },
}));
vi.mock('./connection', () => ({
  now: () => connection,
  onConnection: (listener: () => void) => {
    connected.push(listener);
    return () => connected.splice(connected.indexOf(listener), 1);
  },
}));
const { keepReading } = await import('./reading');

let reads = 0;
let answer: Problem | undefined;
let dirty = true;
function start(everyMs?: number) {
  reads = 0;
  dirty = true;
  answer = undefined;
  return keepReading({
    read: async () => {
      reads += 1;
      dirty = answer?.retryable ?? false;
      return answer;
    },
    due: () => dirty,
    spoil: () => {
      dirty = true;
    },
    touches: (event) => (event as { kind?: string }).kind === 'mine',
    pace: () => 500,
    everyMs,
  });
}
const event = (kind: string) => {
  for (const listener of [...heard]) listener([{ kind }]);
};
beforeEach(() => {
  vi.useFakeTimers();
  connection = { state: 'live', epoch: 1 };
});
afterEach(() => {
  vi.useRealTimers();
});

test('a storm of changes is read at the pace, and the last change is not lost', async () => {
  const reading = start();
  await vi.advanceTimersByTimeAsync(0);
  expect(reads).toBe(1);
  for (let n = 0; n < 100; n += 1) {
    event('mine');
    await vi.advanceTimersByTimeAsync(10);
  }
  expect(reads).toBe(3);
  event('mine');
  await vi.advanceTimersByTimeAsync(499);
  expect(reads).toBe(3);
  await vi.advanceTimersByTimeAsync(1);
  expect(reads).toBe(4);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(reads).toBe(4);
  reading.end();
});

test('what it does not show does not have it read again, and a new connection does, at once', async () => {
  const reading = start();
  await vi.advanceTimersByTimeAsync(0);
  event('other');
  await vi.advanceTimersByTimeAsync(5_000);
  expect(reads).toBe(1);
  connection = { state: 'live', epoch: 2 };
  for (const listener of [...connected]) listener();
  await vi.advanceTimersByTimeAsync(0);
  expect(reads).toBe(2);
  reading.end();
});

test('a silent node is asked less and less often, a refusal only once', async () => {
  const reading = start();
  answer = new Problem('UNAVAILABLE', 'silent', { retryable: true });
  await vi.advanceTimersByTimeAsync(0);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(reads).toBe(2);
  await vi.advanceTimersByTimeAsync(3_999);
  expect(reads).toBe(2);
  await vi.advanceTimersByTimeAsync(1);
  expect(reads).toBe(3);
  answer = new Problem('NOT_FOUND', 'no');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(reads).toBe(4);
  event('mine');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(reads).toBe(5);
  reading.end();
});

test('a page of a list that was refused is still due, and is not asked again until something has changed', async () => {
  let asked = 0;
  const reading = keepReading({
    read: async () => {
      asked += 1;
      return new Problem('INVALID', 'no');
    },
    due: () => true,
    spoil: () => {},
    touches: () => true,
    pace: () => 500,
  });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(asked).toBe(1);
  event('any');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(asked).toBe(2);
  reading.end();
});

test('a beat goes on by itself, and ends with the screen', async () => {
  const reading = start(2_000);
  await vi.advanceTimersByTimeAsync(6_000);
  expect(reads).toBe(4);
  reading.end();
  event('mine');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(reads).toBe(4);
  expect(heard).toHaveLength(0);
  expect(connected).toHaveLength(0);
});
