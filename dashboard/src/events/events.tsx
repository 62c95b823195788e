// The ledger as a stream: filters, pause, and from where to read: now on, the beginning, or a moment.
import { Button, Group, SegmentedControl, TagsInput, Text, TextInput } from '@mantine/core';
import { getRouteApi } from '@tanstack/react-router';
import { useVirtualizer } from '@tanstack/react-virtual';
import { Pause, Play } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import type { EventSearch } from '../app/router';
import { heardTo } from '../live/feed';
import { follow } from '../live/follow';
import { graphql } from '../live/graphql';
import { asProblem, type Problem } from '../live/problem';
import { request } from '../live/request';
import { Words } from '../tasks/tasks';
import { count } from '../ui/figures';
import { Empty, PageHead, ProblemNote } from '../ui/shown';
import { EventDetail, FULL_EVENTS, type FullEvent } from './of_entity';

/** Events that are kept on the page; the oldest go when there are more. */
const KEPT = 5_000;
/** While it is paused so many are held back; then the stream itself is left and gone on with later, by its cursor. */
const HELD_MAX = 5_000;
const GATHER_MS = 120;
/** Nobody reads so many at once: when more than `STORM` came, the next are shown later. */
const STORM = 20;
const STORM_GATHER_MS = 600;

const BEFORE = graphql(`query EventBefore($until: DateTime) { events(last: 1, until: $until) { nodes { cursor } } }`);

const route = getRouteApi('/events');

const KINDS = [
  'TaskSubmitted',
  'TaskAssigned',
  'TaskStarted',
  'TaskAttemptEnded',
  'TaskCancelled',
  'TaskFailed',
  'TaskRedriven',
  'AgentAdded',
  'AgentReady',
  'AgentFailed',
  'AgentStopped',
  'AgentRemoved',
  'HostAdded',
  'HostUnreachable',
  'VmAdded',
  'VmOperationAsked',
  'VmOperationEnded',
  'ApprovalAsked',
  'ApprovalAnswered',
  'NodeJoined',
  'NodeLost',
  'NodeBack',
  'Placed',
  'SwarmAdded',
  'ModelUsed',
  'BudgetWarned',
];

type Read = { events: FullEvent[]; dropped: number; problem?: Problem };

function useStream(search: EventSearch, paused: boolean): Read & { held: number } {
  const filter = {
    kind: search.kind,
    noun: search.noun,
    stream: search.stream ? [search.stream] : undefined,
    task: search.task,
  };
  const key = JSON.stringify([filter, search.from, search.at]);
  const [read, setRead] = useState<Read>({ events: [], dropped: 0 });
  const [held, setHeld] = useState(0);
  const [ready, setReady] = useState(!search.at);
  const cursor = useRef<{ key: string; after: string | undefined }>({ key: '', after: undefined });
  const waiting = useRef<FullEvent[]>([]);
  const pausing = useRef(paused);
  pausing.current = paused;
  // While too many are held back, nothing more is taken in: the cursor stays where it was.
  const full = paused && held >= HELD_MAX;

  useEffect(() => {
    if (cursor.current.key === key) return;
    cursor.current = { key, after: search.at ? undefined : search.from === 'start' ? '0' : heardTo() };
    setReady(!search.at);
    waiting.current = [];
    setHeld(0);
    setRead({ events: [], dropped: 0 });
    if (!search.at) return;
    // The last event before the moment, whatever it is: what follows is what was asked for.
    let over = false;
    const seek = async (until: string) => {
      try {
        const { events } = await request(BEFORE, { until });
        if (over) return;
        cursor.current.after = events.nodes[0]?.cursor ?? '0';
        setReady(true);
      } catch (error) {
        if (!over) setRead((before) => ({ ...before, problem: asProblem(error) }));
      }
    };
    void seek(search.at);
    return () => {
      over = true;
      cursor.current.key = '';
    };
  }, [key, search.from, search.at]);

  useEffect(() => {
    if (full || !ready) return;
    const stop = follow(FULL_EVENTS, () => ({ after: cursor.current.after, filter: JSON.parse(key)[0] }), {
      take: ({ events: event }) => {
        if (waiting.current.length >= HELD_MAX && pausing.current) return;
        cursor.current.after = event.cursor;
        waiting.current.push(event);
      },
      refused: (problem) => setRead((before) => ({ ...before, problem })),
    });
    let timer: ReturnType<typeof setTimeout>;
    const show = () => {
      timer = setTimeout(show, waiting.current.length > STORM ? STORM_GATHER_MS : GATHER_MS);
      if (pausing.current) {
        setHeld(waiting.current.length);
        return;
      }
      if (waiting.current.length === 0) return;
      const events = waiting.current;
      waiting.current = [];
      setHeld(0);
      setRead((before) => {
        const all = [...events.reverse(), ...before.events];
        return { ...before, events: all.slice(0, KEPT), dropped: before.dropped + Math.max(0, all.length - KEPT) };
      });
    };
    timer = setTimeout(show, GATHER_MS);
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [key, full, ready]);
  return { ...read, held };
}

const HOUR_MS = 3_600_000;

/** As a field for a local time takes it. */
function local(at: string): string {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return '';
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

export function Events() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const [paused, setPaused] = useState(false);
  const { events, dropped, problem, held } = useStream(search, paused);
  const change = (next: Partial<EventSearch>) =>
    void navigate({ search: (before) => ({ ...before, ...next }), replace: true });
  const moment = (value: string) => {
    const at = new Date(value);
    if (!Number.isNaN(at.getTime()) && search.at && local(search.at) !== value) change({ at: at.toISOString() });
  };
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: events.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => 32,
    overscan: 6,
    getItemKey: (index) => events[index]?.cursor ?? index,
  });
  return (
    <div className="page page-full">
      <PageHead
        title="Events"
        note="The ledger, as it is written; the newest first. Nothing is missed after a cut: the stream goes on from its cursor."
      >
        <Button
          size="xs"
          variant={paused ? 'filled' : 'default'}
          leftSection={paused ? <Play size={14} /> : <Pause size={14} />}
          onClick={() => setPaused(!paused)}
        >
          {paused ? `Go on${held > 0 ? ` (${count(held)}${held >= HELD_MAX ? ' and more' : ''} wait)` : ''}` : 'Pause'}
        </Button>
      </PageHead>
      <Group gap="xs" align="flex-end">
        <div>
          <Text size="xs" fw={500} mb={2} id="from-label">
            From
          </Text>
          <SegmentedControl
            size="xs"
            aria-labelledby="from-label"
            value={search.at ? 'at' : search.from === 'start' ? 'start' : 'now'}
            onChange={(from) =>
              change({
                from: from === 'start' ? 'start' : undefined,
                at: from === 'at' ? new Date(Date.now() - HOUR_MS).toISOString() : undefined,
              })
            }
            data={[
              { value: 'now', label: 'Now on' },
              { value: 'start', label: 'The beginning' },
              { value: 'at', label: 'A moment' },
            ]}
          />
        </div>
        {search.at && (
          <TextInput
            key={search.at}
            size="xs"
            type="datetime-local"
            step={1}
            label="Moment, local time"
            defaultValue={local(search.at)}
            onBlur={(event) => moment(event.currentTarget.value)}
            onKeyDown={(event) => event.key === 'Enter' && moment(event.currentTarget.value)}
          />
        )}
        <TagsInput
          size="xs"
          label="Kinds"
          placeholder={search.kind ? undefined : 'any'}
          data={KINDS}
          value={search.kind ?? []}
          onChange={(kind) => change({ kind: kind.length > 0 ? kind : undefined })}
          w={{ base: '100%', xs: 240 }}
          clearable
        />
        <TagsInput
          size="xs"
          label="Of"
          placeholder={search.noun ? undefined : 'anything'}
          data={['swarm', 'agent', 'roster', 'vm', 'usage']}
          value={search.noun ?? []}
          onChange={(noun) => change({ noun: noun.length > 0 ? noun : undefined })}
          w={150}
          clearable
        />
        <Words label="Task" placeholder="task_…" value={search.task} change={(task) => change({ task })} width={150} />
        <Words
          label="Stream"
          placeholder="key"
          value={search.stream}
          change={(stream) => change({ stream })}
          width={150}
        />
      </Group>
      {problem && <ProblemNote problem={problem} />}
      <section className="card card-tight" style={{ flex: 1, minHeight: 0, display: 'flex', flexDirection: 'column' }}>
        <div
          ref={scroller}
          style={{ flex: 1, minHeight: 0, overflow: 'auto', padding: '0 0.7rem' }}
          tabIndex={0}
          role="region"
          aria-label="Events"
        >
          {events.length === 0 && !problem && (
            <Empty
              title={
                search.from === 'start' || search.at
                  ? 'No event is like this'
                  : 'Nothing like this has happened since this page was opened'
              }
            >
              {search.from !== 'start' &&
                !search.at &&
                'What happens from now on shows here at once. To see what was before, read from the beginning.'}
            </Empty>
          )}
          <div style={{ height: virtual.getTotalSize(), position: 'relative' }}>
            {virtual.getVirtualItems().map((item) => {
              const event = events[item.index];
              if (!event) return null;
              return (
                <div
                  key={item.key}
                  ref={virtual.measureElement}
                  data-index={item.index}
                  style={{
                    position: 'absolute',
                    left: 0,
                    right: 0,
                    top: 0,
                    transform: `translateY(${item.start}px)`,
                    borderBottom: '1px solid var(--line)',
                  }}
                >
                  <EventDetail event={event} />
                </div>
              );
            })}
          </div>
        </div>
        <div
          className="dim num"
          style={{ padding: '0.35rem 0.9rem', borderTop: '1px solid var(--line)', fontSize: '0.8rem' }}
          role="status"
        >
          {count(events.length)} shown{dropped > 0 && `; ${count(dropped)} older ones are not kept on this page`}
        </div>
      </section>
    </div>
  );
}
