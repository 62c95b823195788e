// Every event of the ledger since this page was opened, once and in order, resumed by cursor after each cut.
//
// Screens use it to know what to read again; it keeps the last ones for those that show them.
import { useSyncExternalStore } from 'react';
import * as connection from './connection';
import { follow } from './follow';
import { graphql, type ResultOf } from './graphql';
import { request } from './request';
import { onSession, token } from './session';

const HEAD = graphql(`query Head { cluster { cursor } }`);
const FEED = graphql(`
  subscription Feed($after: Cursor) { events(after: $after) { cursor at kind stream task agent } }
`);

export type FeedEvent = ResultOf<typeof FEED>['events'];

/** Events that are kept; older ones can be read on the events page. */
const KEPT = 300;
/** Events of a burst are handed on together. */
const GATHER_MS = 100;

let cursor: string | undefined;
let recent: FeedEvent[] = [];
let waiting: FeedEvent[] = [];
// biome-ignore lint/correctness/noUnusedVariables: it says whether a burst is being gathered
let timer: ReturnType<typeof setTimeout> | undefined;
let stop: (() => void) | undefined;
let ofToken = '';
const listeners = new Set<(events: FeedEvent[]) => void>();

function hand(): void {
  timer = undefined;
  const events = waiting;
  waiting = [];
  recent = [...events.slice(-KEPT).reverse(), ...recent].slice(0, KEPT);
  for (const listener of [...listeners]) listener(events);
}

async function start(): Promise<void> {
  const mine = token();
  if (mine === ofToken) return;
  stop?.();
  stop = undefined;
  cursor = undefined;
  recent = [];
  ofToken = mine;
  if (mine === '') return;
  while (cursor === undefined && ofToken === mine) {
    try {
      cursor = (await request(HEAD, {})).cluster.cursor;
    } catch {
      // The connection's own state says so on the page; another try follows.
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  }
  if (ofToken !== mine) return;
  stop = follow(FEED, () => ({ after: cursor }), {
    take: ({ events: event }) => {
      cursor = event.cursor;
      waiting.push(event);
      timer ??= setTimeout(hand, GATHER_MS);
    },
  });
}

export function begin(): void {
  connection.begin();
  onSession(() => void start());
  void start();
}

/** The last event that was heard of: what is read now should not be older. */
export function heardTo(): string | undefined {
  return cursor;
}

export function onEvents(listener: (events: FeedEvent[]) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The newest first. */
export function useRecentEvents(): FeedEvent[] {
  return useSyncExternalStore(onEvents, () => recent);
}
