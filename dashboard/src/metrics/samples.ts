// Samples since this page was opened, one a second, at most an hour of them. A gap in time stays a gap.
import { useSyncExternalStore } from 'react';
import { follow } from '../live/follow';
import { graphql, type ResultOf } from '../live/graphql';
import { onSession, token } from '../live/session';

const METRICS = graphql(`
  subscription Metrics {
    metrics(everyMs: 1000) {
      at tasksRunning tasksQueued tasksEndedTotal agentsRunning eventsTotal cpuSecondsTotal residentBytes
    }
  }
`);

export type Sample = ResultOf<typeof METRICS>['metrics'];

const KEPT = 3_600;

let samples: Sample[] = [];
let stop: (() => void) | undefined;
const listeners = new Set<() => void>();

function tell(): void {
  for (const listener of [...listeners]) listener();
}

export function begin(): void {
  const start = () => {
    stop?.();
    samples = [];
    tell();
    if (token() === '') return;
    stop = follow(METRICS, () => ({}), {
      take: ({ metrics }) => {
        samples = [...(samples.length >= KEPT ? samples.slice(1 - KEPT) : samples), metrics];
        tell();
      },
    });
  };
  onSession(start);
  start();
}

/** The oldest first. */
export function useSamples(): Sample[] {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => samples,
  );
}

/** Per second, over the last samples; absent while there are too few, or where counting began again. */
export function rate(
  of: Sample[],
  field: 'tasksEndedTotal' | 'eventsTotal' | 'cpuSecondsTotal',
  over = 10,
): number | undefined {
  const last = of.at(-1);
  const first = of.at(-1 - Math.min(over, of.length - 1));
  if (!last || !first || last === first) return undefined;
  const [before, after] = [first[field], last[field]];
  const seconds = (Date.parse(last.at) - Date.parse(first.at)) / 1_000;
  if (before === null || after === null || after < before || seconds <= 0) return undefined;
  return (after - before) / seconds;
}
