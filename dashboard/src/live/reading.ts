// When something is read again: soon after what it shows may have changed, over each new connection, and perhaps on a beat.
//
// One read at a time. Reads begin no closer together than their pace, a storm of changes costs a bounded share of the
// page's time and the node's. After a problem the wait doubles, 15 s at most; what cannot be answered is not asked again
// until something has changed. Nothing is read while nobody looks.
import * as connection from './connection';
import { type FeedEvent, onEvents } from './feed';
import type { Problem } from './problem';

const PROBLEM_WAIT_MAX_MS = 15_000;

export type Reading = {
  /** Reads what is due; what went wrong is returned, not thrown. */
  read: (signal: AbortSignal) => Promise<Problem | undefined>;
  due: () => boolean;
  /** What was read may not be how things are any more. */
  spoil: () => void;
  touches: (event: FeedEvent) => boolean;
  /** Milliseconds from one beginning to the next, given how long the last read took. */
  pace: (tookMs: number) => number;
  /** Also read after this long, for what no event tells. */
  everyMs?: number | undefined;
};

export function keepReading({ read, due, spoil, touches, pace, everyMs }: Reading) {
  let over = false;
  let running = false;
  /** The last answer was no, and asking again would not change it. */
  let settled = false;
  let problems = 0;
  let startedAt = 0;
  let tookMs = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const abort = new AbortController();

  const turn = async () => {
    timer = undefined;
    if (over || running || document.hidden || (everyMs === undefined && !due())) return;
    running = true;
    const began = Date.now();
    startedAt = began;
    const problem = await read(abort.signal);
    running = false;
    if (over) return;
    tookMs = Date.now() - began;
    problems = problem ? problems + 1 : 0;
    settled = problem !== undefined && !problem.retryable;
    plan();
  };
  const plan = () => {
    if (over || running || timer !== undefined) return;
    const patience = problems > 0 ? Math.min(1_000 * 2 ** problems, PROBLEM_WAIT_MAX_MS) : 0;
    let wait: number;
    if (due() && !settled) wait = Math.max(pace(tookMs), patience);
    else if (everyMs !== undefined) wait = Math.max(everyMs, tookMs * 4, patience);
    else return;
    timer = setTimeout(turn, Math.max(0, startedAt + wait - Date.now()));
  };
  const soon = () => {
    settled = false;
    spoil();
    // A beat that is waited for gives way to what is known to have changed.
    if (everyMs !== undefined) {
      clearTimeout(timer);
      timer = undefined;
    }
    plan();
  };
  const refresh = () => {
    startedAt = 0;
    problems = 0;
    clearTimeout(timer);
    timer = undefined;
    soon();
  };
  const offEvents = onEvents((events) => {
    if (events.some(touches)) soon();
  });
  let { epoch } = connection.now();
  const offConnection = connection.onConnection(() => {
    const now = connection.now();
    if (now.state !== 'live' || now.epoch === epoch) return;
    epoch = now.epoch;
    refresh();
  });
  const seen = () => {
    if (!document.hidden) soon();
  };
  document.addEventListener('visibilitychange', seen);
  plan();
  return {
    /** What is due may have changed. */
    wake: plan,
    /** Reads now, whatever the pace. */
    refresh,
    end: () => {
      over = true;
      abort.abort();
      clearTimeout(timer);
      offEvents();
      offConnection();
      document.removeEventListener('visibilitychange', seen);
    },
  };
}
