// Every event of the ledger since this page was opened, once and in order, resumed by cursor after each cut.
//
// Screens use it to know what to read again; it keeps the last ones for those that show them.
import { useSyncExternalStore } from 'react';
import * as connection from './connection';
import * as elsewhere from './elsewhere';
import { follow } from './follow';
import { graphql, type ResultOf } from './graphql';
import { request } from './request';
import { onSession, token } from './session';

const HEAD = graphql(`query Head { cluster { cursor } }`);
const NODES = graphql(`query Nodes { cluster { nodes { gatewayUrl status } } }`);
const FEED = graphql(`
  subscription Feed($after: Cursor) { events(after: $after) { cursor at kind stream task agent by } }
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

/** Learns where else the page could go on, over each connection and when nodes come or go. */
async function learnNodes(): Promise<void> {
  try {
    const { nodes } = (await request(NODES, {})).cluster;
    // One that is lost now may be the one that answers later, so all are kept.
    elsewhere.learn(nodes.flatMap(({ gatewayUrl }) => gatewayUrl ?? []));
  } catch {
    // Asked again over the next connection; until then what was known stays.
  }
}

export function begin(): void {
  let epoch = 0;
  connection.onConnection(() => {
    const now = connection.now();
    if (now.state !== 'live' || now.epoch === epoch) return;
    epoch = now.epoch;
    void learnNodes();
  });
  onEvents((events) => {
    if (events.some(({ kind }) => kind.startsWith('Node'))) void learnNodes();
  });
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
