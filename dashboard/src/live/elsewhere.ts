// Where this page asks: at the node it came from, or, when that is gone, at another of the same cluster.
//
// The others are known from the cluster itself, over a connection that had credentials; the token goes to no other address.
// They have the same ledger, so a cursor of one is good on all, and nothing is missed in going on.
import { useSyncExternalStore } from 'react';

let at = '';
let others: string[] = [];
const listeners = new Set<() => void>();

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/i;

/** Those that a page of `own` may go on from: no weaker transport, and no loopback address of somebody else's machine. */
export function usable(urls: readonly string[], own: string): string[] {
  const page = new URL(own);
  return [...new Set(urls)].filter((url) => {
    if (!URL.canParse(url)) return false;
    const { protocol, hostname, origin } = new URL(url);
    if (origin !== url || origin === page.origin) return false;
    if (protocol !== 'https:' && (protocol !== 'http:' || page.protocol === 'https:')) return false;
    return !LOOPBACK.test(hostname) || LOOPBACK.test(page.hostname);
  });
}

/** The origin to ask; empty for the page's own. */
export function origin(): string {
  return at;
}

export function socket(path: string): string {
  return `${(at || location.origin).replace(/^http/, 'ws')}${path}`;
}

export function learn(urls: readonly string[]): void {
  others = usable(urls, location.origin);
}

/** Goes to the next address, in a circle that has the page's own. */
export function next(): void {
  const circle = ['', ...others];
  at = circle[(circle.indexOf(at) + 1) % circle.length] ?? '';
  for (const listener of [...listeners]) listener();
}

export function useOrigin(): string {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => at,
  );
}
