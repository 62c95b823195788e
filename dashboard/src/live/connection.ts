// The WebSocket to the node: one, for all subscriptions. Says whether what is shown can be live.
//
// While it is cut it tries again, waiting longer each time, 5 s at most; from the second try on at the next address of the
// cluster each time. A subscription is begun again by its own
// `follow` from where it was; nothing here resends an old position.
import { type Client, createClient } from 'graphql-ws';
import { useSyncExternalStore } from 'react';
import * as elsewhere from './elsewhere';
import { onSession, signOut, token } from './session';

export type Connection = {
  state: 'connecting' | 'live' | 'cut' | 'off';
  /** Grows with each connection; what was read in an older one may have been missed changes. */
  epoch: number;
  since: number;
  /** Why it is cut, in words. */
  why: string;
  /** When it is tried again. */
  retryAt: number;
};

const WAIT_FIRST_MS = 250;
const WAIT_MAX_MS = 5_000;
/** A node that says nothing for so long after a ping is taken for gone. */
const PONG_WITHIN_MS = 5_000;
/** A host that is gone does not even refuse. */
const CONNECT_WITHIN_MS = 5_000;

let connection: Connection = { state: 'off', epoch: 0, since: Date.now(), why: '', retryAt: 0 };
let client: Client | undefined;
let wait = WAIT_FIRST_MS;
/** Since it was live. */
let failures = 0;
let retry: ReturnType<typeof setTimeout> | undefined;
/** The token that `client` was made with. */
let clientToken = '';
const listeners = new Set<() => void>();

function change(next: Partial<Connection>): void {
  connection = { ...connection, ...next };
  for (const listener of [...listeners]) listener();
}

function words(code: number, reason: string): string {
  if (code === 4499) return 'the node does not answer';
  if (reason) return reason;
  if (code === 1006 || code === 1001) return 'the node does not answer';
  return `closed with ${code}`;
}

function open(): void {
  clearTimeout(retry);
  retry = undefined;
  if (client || token() === '') return;
  clientToken = token();
  change({ state: connection.epoch === 0 ? 'connecting' : connection.state, retryAt: 0 });
  let pong: ReturnType<typeof setTimeout> | undefined;
  const patience = setTimeout(() => made.terminate(), CONNECT_WITHIN_MS);
  const made: Client = createClient({
    url: elsewhere.socket('/graphql/ws'),
    connectionParams: { Authorization: `Bearer ${clientToken}` },
    lazy: false,
    retryAttempts: 0,
    keepAlive: 5_000,
    onNonLazyError: () => {},
    on: {
      connected: () => {
        clearTimeout(patience);
        if (client !== made) return;
        wait = WAIT_FIRST_MS;
        failures = 0;
        change({ state: 'live', epoch: connection.epoch + 1, since: Date.now(), why: '', retryAt: 0 });
      },
      ping: (received) => {
        if (!received) pong = setTimeout(() => made.terminate(), PONG_WITHIN_MS);
      },
      pong: () => clearTimeout(pong),
      closed: (event) => {
        clearTimeout(pong);
        clearTimeout(patience);
        const { code = 1006, reason = '' } = event as { code?: number; reason?: string };
        ended(made, code, reason);
      },
    },
  });
  client = made;
}

function ended(made: Client, code: number, reason: string): void {
  if (client !== made) return;
  client = undefined;
  if (code === 4401 || code === 4403) {
    change({ state: 'off', since: Date.now(), why: words(code, reason) });
    signOut(`You were signed out: ${words(code, reason)}`);
    return;
  }
  failures += 1;
  if (failures > 1) elsewhere.next();
  const ms = wait * (0.75 + Math.random() / 2);
  wait = Math.min(wait * 2, WAIT_MAX_MS);
  const since = connection.state === 'cut' ? connection.since : Date.now();
  change({ state: 'cut', since, why: words(code, reason), retryAt: Date.now() + ms });
  retry = setTimeout(open, ms);
}

function close(): void {
  clearTimeout(retry);
  const old = client;
  client = undefined;
  void old?.dispose();
  change({ state: 'off', since: Date.now(), why: '', retryAt: 0 });
}

/** Tries now instead of when the wait is over. */
export function connectNow(): void {
  wait = WAIT_FIRST_MS;
  open();
}

export function begin(): void {
  onSession(() => {
    if (token() === clientToken && client) return;
    close();
    wait = WAIT_FIRST_MS;
    open();
  });
  // A laptop that wakes up, or a network that is back, need not wait for the timer.
  addEventListener('online', connectNow);
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && connection.state === 'cut') connectNow();
  });
  open();
}

/** The client of a connection that stands, if one does. */
export function standing(): Client | undefined {
  return connection.state === 'live' ? client : undefined;
}

export function now(): Connection {
  return connection;
}

export function onConnection(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useConnection(): Connection {
  return useSyncExternalStore(onConnection, now);
}
