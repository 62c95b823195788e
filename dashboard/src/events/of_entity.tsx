// The events of one entity from its beginning, and those that follow.
import { Button } from '@mantine/core';
import { ChevronDown, ChevronRight } from 'lucide-react';
import { useEffect, useState } from 'react';
import { follow } from '../live/follow';
import { graphql, type ResultOf } from '../live/graphql';
import type { Problem } from '../live/problem';
import { Json } from '../ui/json';
import { KeyLink } from '../ui/key';
import { Empty, ProblemNote } from '../ui/shown';
import { tone } from '../ui/state';
import { At } from '../ui/time';
import { kindTone, kindWords } from './line';

export const FULL_EVENTS = graphql(`
  subscription FullEvents($after: Cursor, $filter: EventFilter) {
    events(after: $after, filter: $filter) { cursor at kind stream task agent by trace data }
  }
`);

export type FullEvent = ResultOf<typeof FULL_EVENTS>['events'];

/** Events that are kept; the first ones go when there are more. */
const KEPT = 1_000;
const SHOWN = 100;

type Filter = { task?: string; stream?: string[]; noun?: string[] };

/** `about`: of those, only the ones that name this key. */
export function EntityEvents({ filter, about }: { filter: Filter; about?: string }) {
  const key = JSON.stringify(filter);
  const [read, setRead] = useState<{ events: FullEvent[]; problem?: Problem; waited: boolean }>({
    events: [],
    waited: false,
  });
  const [all, setAll] = useState(false);
  useEffect(() => {
    let cursor = '0';
    let waiting: FullEvent[] = [];
    setRead({ events: [], waited: false });
    const timer = setInterval(() => {
      const events = waiting;
      waiting = [];
      setRead((before) =>
        events.length === 0 && before.waited
          ? before
          : { ...before, waited: true, events: [...before.events, ...events].slice(-KEPT) },
      );
    }, 150);
    const stop = follow(FULL_EVENTS, () => ({ after: cursor, filter: JSON.parse(key) as Filter }), {
      take: ({ events: event }) => {
        cursor = event.cursor;
        if (!about || names(event, about)) waiting.push(event);
      },
      refused: (problem) => setRead((before) => ({ ...before, problem })),
    });
    return () => {
      clearInterval(timer);
      stop();
    };
  }, [key, about]);
  const newest = [...read.events].reverse();
  return (
    <div>
      {read.problem && <ProblemNote problem={read.problem} />}
      {newest.length === 0 && read.waited && !read.problem && (
        <Empty title="The ledger holds no events about it">They may have been compacted.</Empty>
      )}
      <ul className="bare">
        {newest.slice(0, all ? KEPT : SHOWN).map((event) => (
          <li key={event.cursor} style={{ borderBottom: '1px solid var(--line)' }}>
            <EventDetail event={event} />
          </li>
        ))}
      </ul>
      {newest.length > SHOWN && !all && (
        <Button size="compact-sm" variant="subtle" onClick={() => setAll(true)}>
          Show all {newest.length}
        </Button>
      )}
    </div>
  );
}

function names(event: FullEvent, key: string): boolean {
  return (
    event.stream === key ||
    (typeof event.data === 'object' && event.data !== null && Object.values(event.data).includes(key))
  );
}

export function EventDetail({ event }: { event: FullEvent }) {
  const [open, setOpen] = useState(false);
  const words = kindWords(event.kind);
  return (
    <div className="event" data-cursor={event.cursor}>
      <div className="event-line">
        <button
          type="button"
          className="event-open"
          aria-expanded={open}
          aria-label={`${words}, details`}
          onClick={() => setOpen(!open)}
        >
          {open ? <ChevronDown size={14} aria-hidden /> : <ChevronRight size={14} aria-hidden />}
        </button>
        <span className="dim num" style={{ fontSize: '0.8rem' }}>
          <At at={event.at} />
        </span>
        <span className={`tone-${toneOf(event)}`} style={{ background: 'none', fontWeight: 600 }}>
          {words}
        </span>
        <span className="clip" style={{ display: 'inline-flex', gap: '0.8rem' }}>
          {event.task && <KeyLink id={event.task} />}
          {event.agent && <KeyLink id={event.agent} />}
          {named(event).map((key) => (
            <KeyLink key={key} id={key} />
          ))}
        </span>
        {event.by && (
          <span className="dim" style={{ fontSize: '0.8rem', whiteSpace: 'nowrap' }}>
            by {event.by}
          </span>
        )}
        <span className="dim clip event-brief">{brief(event.data)}</span>
      </div>
      {open && (
        <>
          <Json value={event.data} label={`What ${event.kind} says`} />
          <p className="dim mono wrap" style={{ margin: '4px 0 8px', fontSize: '0.78rem' }}>
            cursor {event.cursor} · stream {event.stream}
            {event.by && ` · asked for by ${event.by}`}
            {event.trace && ` · ${event.trace}`}
          </p>
        </>
      )}
    </div>
  );
}

/** Whose event it is, or whom it names: the roster's own key leads nowhere. */
function named(event: FullEvent): string[] {
  if (event.task || event.stream === event.agent) return [];
  if (!event.stream.startsWith('roster_')) return [event.stream];
  const values = typeof event.data === 'object' && event.data !== null ? Object.values(event.data) : [];
  const keys = values.filter((value): value is string => typeof value === 'string' && KEY.test(value));
  return [...new Set(keys)].filter((key) => key !== event.agent).slice(0, 3);
}

const KEY = /^(agent|swarm|host|vm|node)_[0-9a-f]{32}$/;

/** An end is as good as what ended. */
function toneOf(event: FullEvent) {
  const status = (event.data as { status?: unknown } | null)?.status;
  return typeof status === 'string' && /Ended$/.test(event.kind) ? tone(status) : kindTone(event.kind);
}

/** The figures and words of an event that are no keys. */
function brief(data: unknown): string {
  if (typeof data !== 'object' || data === null) return '';
  return Object.entries(data)
    .filter(
      ([, value]) =>
        (typeof value === 'string' && !/^[a-z]+_[0-9a-f]{32}$/.test(value)) ||
        typeof value === 'number' ||
        typeof value === 'boolean',
    )
    .map(([key, value]) => `${key} ${value}`)
    .join(', ')
    .slice(0, 200);
}
