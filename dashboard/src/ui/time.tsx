// Times: local, with UTC on hover. All that tick share one timer.
import { useSyncExternalStore } from 'react';

let current = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;
const listeners = new Set<() => void>();

function listen(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    current = Date.now();
    for (const each of [...listeners]) each();
  }, 1_000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  };
}

/** The time, once a second. */
export function useNow(): number {
  return useSyncExternalStore(listen, () => current);
}

export function duration(ms: number): string {
  if (ms < 1) return ms <= 0 ? '0 ms' : `${ms.toFixed(1)} ms`;
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1_000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} days`;
}

export function utc(at: string | number): string {
  return `${new Date(at).toISOString().replace('T', ' ').replace('Z', '')} UTC`;
}

/** Made once: making one costs more than a hundred uses of it. */
const TIME = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});

export function clock(at: string | number, withDate = false): string {
  const date = new Date(at);
  const time = TIME.format(date);
  return withDate || Date.now() - date.getTime() > 20 * 3_600_000 ? `${date.toLocaleDateString()} ${time}` : time;
}

export function Ago({ at }: { at: string | number | null | undefined }) {
  const now = useNow();
  if (at === null || at === undefined) return <span className="dim">–</span>;
  const ms = now - new Date(at).getTime();
  const words =
    ms < 1_000
      ? 'just now'
      : ms < 60_000
        ? `${Math.floor(ms / 1_000)} s ago`
        : `${duration(ms).replace(/ \d+ (s|min)$/, '')} ago`;
  return (
    <time dateTime={new Date(at).toISOString()} title={`${clock(at, true)}\n${utc(at)}`} className="num">
      {words}
    </time>
  );
}

export function At({ at, withDate }: { at: string | number | null | undefined; withDate?: boolean }) {
  if (at === null || at === undefined) return <span className="dim">–</span>;
  return (
    <time dateTime={new Date(at).toISOString()} title={utc(at)} className="num">
      {clock(at, withDate)}
    </time>
  );
}

/** How long something has taken, or takes so far. */
export function Took({ from, to }: { from: string | null | undefined; to: string | null | undefined }) {
  return to ? <Span from={from} to={new Date(to).getTime()} /> : <Running from={from} />;
}

function Running({ from }: { from: string | null | undefined }) {
  return <Span from={from} to={useNow()} />;
}

function Span({ from, to }: { from: string | null | undefined; to: number }) {
  if (!from) return <span className="dim">–</span>;
  return <span className="num">{duration(Math.max(0, to - new Date(from).getTime()))}</span>;
}
