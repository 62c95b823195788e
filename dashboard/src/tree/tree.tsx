// Every node's supervision tree, live: who runs, who was restarted, how full mailboxes are, what failed last.
import { ActionIcon, Button, Group, Select, Text, TextInput } from '@mantine/core';
import { useViewportSize } from '@mantine/hooks';
import { getRouteApi } from '@tanstack/react-router';
import { useVirtualizer } from '@tanstack/react-virtual';
import { ChevronDown, ChevronRight, Search } from 'lucide-react';
import { useEffect, useMemo, useRef, useState } from 'react';
import { follow } from '../live/follow';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { shortKey } from '../ui/key';
import { Empty, Freshness, PageHead, ProblemNote, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { duration, Took } from '../ui/time';
import { ActorPanel, ArmedFaults } from './actor';
import { flatten, type Row, restarted } from './flat';

const ACTOR = graphql(`
  fragment Actor on SupervisionNode {
    name kind key entityName path status restarts mailbox mailboxBound startedAt note childCount lastFailure { message at recoveredInMs }
  }
`);
const TREE = graphql(
  `
  query Tree($node: ID) {
    supervisionTree(node: $node, depth: 5) {
      ...Actor node
      children { ...Actor children { ...Actor children { ...Actor children { ...Actor children { ...Actor } } } } }
    }
    cluster { nodes { id leader status } }
  }
`,
  [ACTOR],
);
const CHANGES = graphql(`subscription Changes { supervision { at path key kind change message tookMs } }`);

export type Change = ResultOf<typeof CHANGES>['supervision'];
export type TreeActor = ResultOf<typeof ACTOR> & { children?: readonly TreeActor[] };

/** Changes that are kept. */
const KEPT = 400;
/** How long a restart is seen where it happened. */
const FLASH_MS = 2_400;

const route = getRouteApi('/tree');

export function Tree() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const [collapsed, setCollapsed] = useState<ReadonlySet<string>>(new Set());
  const [flashing, setFlashing] = useState<ReadonlyMap<string, number>>(new Map());
  const [changes, setChanges] = useState<Change[]>([]);
  const live = useLive(TREE, { node: search.node }, { touches: () => false, everyMs: 2_000 });
  const { refresh } = live;
  const here = live.data?.supervisionTree.node;
  const root = live.data?.supervisionTree as TreeActor | undefined;
  const flash = useRef((paths: string[]) => {
    const until = Date.now() + FLASH_MS;
    setFlashing(
      (before) =>
        new Map([
          ...[...before].filter(([, end]) => end > Date.now()),
          ...paths.map((path): [string, number] => [path, until]),
        ]),
    );
  }).current;

  // Changes as they happen are those of the node that serves this page.
  useEffect(() => {
    let soon: ReturnType<typeof setTimeout> | undefined;
    const stop = follow(CHANGES, () => ({}), {
      take: ({ supervision: change }) => {
        setChanges((before) => [change, ...before].slice(0, KEPT));
        if (['FAILED', 'RESTARTED', 'GAVE_UP'].includes(change.change)) flash([change.path]);
        soon ??= setTimeout(() => {
          soon = undefined;
          refresh();
        }, 400);
      },
    });
    return () => {
      clearTimeout(soon);
      stop();
    };
  }, [refresh, flash]);

  // Of other nodes, restarts are seen between two readings.
  const counts = useRef<ReadonlyMap<string, number>>(new Map());
  const countsOf = useRef<string>(undefined);
  useEffect(() => {
    if (!root) return;
    if (countsOf.current !== here) counts.current = new Map();
    countsOf.current = here;
    const { now, grown } = restarted(counts.current, root);
    counts.current = now;
    if (grown.length > 0) flash(grown);
  }, [root, here, flash]);

  const rows = useMemo(() => (root ? flatten(root, collapsed, search.find ?? '') : []), [root, collapsed, search.find]);
  const chosen = search.actor ? find(root, search.actor) : undefined;
  const { width } = useViewportSize();
  const narrow = width > 0 && width < 768;
  const choose = (path: string | undefined) =>
    void navigate({ search: (before) => ({ ...before, actor: path }), replace: true });
  return (
    <div className="page page-full">
      <PageHead
        title="Supervision"
        note="Actors by who supervises whom. A crash is restarted where it happened; its siblings go on."
      >
        <Freshness live={live} />
      </PageHead>
      <Group gap="xs" align="flex-end">
        {(live.data?.cluster.nodes.length ?? 0) > 1 && (
          <Select
            size="xs"
            label="Node"
            w={220}
            allowDeselect={false}
            value={here ?? null}
            onChange={(node) =>
              void navigate({ search: (before) => ({ ...before, node: node ?? undefined, actor: undefined }) })
            }
            data={live.data?.cluster.nodes
              .filter(({ status }) => status !== 'LOST' && status !== 'REMOVED')
              .map(({ id, leader }) => ({ value: id, label: `${shortKey(id)}${leader ? ', leader' : ''}` }))}
          />
        )}
        <TextInput
          size="xs"
          label="Find"
          placeholder="name, kind, state or failure"
          leftSection={<Search size={13} aria-hidden />}
          w={230}
          value={search.find ?? ''}
          onChange={({ currentTarget: { value } }) =>
            void navigate({ search: (before) => ({ ...before, find: value || undefined }), replace: true })
          }
        />
        <Button size="xs" variant="default" onClick={() => setCollapsed(new Set())}>
          Open all
        </Button>
        <Button
          size="xs"
          variant="default"
          onClick={() =>
            setCollapsed(
              new Set(
                (root?.children ?? []).filter((child) => (child.children?.length ?? 0) > 0).map(({ path }) => path),
              ),
            )
          }
        >
          Close all
        </Button>
        <ArmedFaults />
      </Group>
      {live.problem && live.data && <ProblemNote problem={live.problem} retry={live.refresh} at={live.at} />}
      <div className="tree" data-chosen={chosen !== undefined || undefined}>
        <section
          className="card card-tight"
          style={{ minHeight: 0, minWidth: 0, display: 'flex', flexDirection: 'column' }}
          data-stale={live.stale && live.at > 0 ? 'true' : undefined}
        >
          {live.data === undefined ? (
            <div style={{ padding: '1rem' }}>
              <Shown live={live} rows={8}>
                {() => null}
              </Shown>
            </div>
          ) : rows.length === 0 ? (
            <Empty title="No actor is like this" />
          ) : (
            <Rows
              rows={rows}
              narrow={narrow}
              flashing={flashing}
              chosen={search.actor}
              choose={choose}
              toggle={(path) =>
                setCollapsed((before) => {
                  const after = new Set(before);
                  if (!after.delete(path)) after.add(path);
                  return after;
                })
              }
            />
          )}
        </section>
        {search.actor && (
          <ActorPanel
            actor={chosen}
            path={search.actor}
            node={here}
            changes={changes.filter((change) => change.path === search.actor || change.path === '')}
            close={() => choose(undefined)}
          />
        )}
      </div>
    </div>
  );
}

function find(actor: TreeActor | undefined, path: string): TreeActor | undefined {
  if (!actor || actor.path === path) return actor;
  for (const child of actor.children ?? []) {
    const found = find(child, path);
    if (found) return found;
  }
  return undefined;
}

function Rows({
  rows,
  narrow,
  flashing,
  chosen,
  choose,
  toggle,
}: {
  rows: Row<TreeActor>[];
  narrow: boolean;
  flashing: ReadonlyMap<string, number>;
  chosen: string | undefined;
  choose: (path: string) => void;
  toggle: (path: string) => void;
}) {
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => 34,
    overscan: 15,
    getItemKey: (index) => rows[index]?.id ?? index,
  });
  // Who was chosen by an address is scrolled to, once.
  const sought = useRef<string>(undefined);
  useEffect(() => {
    if (!chosen || sought.current === chosen) return;
    const index = rows.findIndex(({ id }) => id === chosen);
    if (index < 0) return;
    sought.current = chosen;
    virtual.scrollToIndex(index, { align: 'auto' });
  }, [chosen, rows, virtual]);
  return (
    <>
      <div className="tree-row tree-head" aria-hidden>
        <span>Actor</span>
        <span>Status</span>
        {!narrow && (
          <>
            <span>Restarts</span>
            <span>Mailbox</span>
            <span>Age</span>
            <span>Last failure</span>
          </>
        )}
      </div>
      <div ref={scroller} style={{ flex: 1, minHeight: 0, overflow: 'auto' }} role="tree" aria-label="Supervision tree">
        <div style={{ height: virtual.getTotalSize(), position: 'relative' }} role="presentation">
          {virtual.getVirtualItems().map((item) => {
            const row = rows[item.index];
            if (!row) return null;
            const { actor, depth, open } = row;
            const label = actor.entityName ?? (actor.key ? shortKey(actor.name) : actor.name);
            return (
              <div
                key={`${row.id} ${flashing.get(row.id) ?? ''}`}
                role="treeitem"
                aria-level={depth + 1}
                aria-expanded={open}
                aria-selected={chosen === row.id}
                tabIndex={0}
                className={`tree-row ${(flashing.get(row.id) ?? 0) > Date.now() ? 'flash' : ''}`}
                data-path={row.id}
                data-chosen={chosen === row.id || undefined}
                style={{
                  position: 'absolute',
                  left: 0,
                  right: 0,
                  top: 0,
                  height: 34,
                  transform: `translateY(${item.start}px)`,
                }}
                onClick={() => choose(row.id)}
                onKeyDown={(event) => {
                  if (event.key === 'Enter') choose(row.id);
                  else if (
                    (event.key === 'ArrowRight' && open === false) ||
                    (event.key === 'ArrowLeft' && open === true)
                  )
                    toggle(row.id);
                  else if (event.key === 'ArrowDown')
                    (event.currentTarget.nextElementSibling as HTMLElement | null)?.focus();
                  else if (event.key === 'ArrowUp')
                    (event.currentTarget.previousElementSibling as HTMLElement | null)?.focus();
                  else return;
                  event.preventDefault();
                }}
              >
                <span style={{ paddingLeft: depth * 18, display: 'flex', alignItems: 'center', gap: 4, minWidth: 0 }}>
                  {open === undefined ? (
                    <span style={{ width: 22, flex: 'none' }} />
                  ) : (
                    <ActionIcon
                      variant="subtle"
                      color="gray"
                      size={22}
                      tabIndex={-1}
                      aria-hidden
                      onClick={(event) => {
                        event.stopPropagation();
                        toggle(row.id);
                      }}
                    >
                      {open ? <ChevronDown size={14} /> : <ChevronRight size={14} />}
                    </ActionIcon>
                  )}
                  <span
                    className={`clip ${actor.key && !actor.entityName ? 'mono' : ''}`}
                    title={actor.name}
                    style={{ fontWeight: depth < 2 ? 600 : undefined, flex: 'none', maxWidth: '65%' }}
                  >
                    {label}
                  </span>
                  <span className="dim clip" style={{ fontSize: '0.78rem' }}>
                    {actor.kind !== actor.name && actor.kind}
                    {actor.entityName && actor.key && <span className="mono"> {shortKey(actor.key)}</span>}
                    {open !== undefined && ` · ${actor.childCount}`}
                    {actor.note && ` · ${actor.note}`}
                  </span>
                </span>
                <span>
                  <State status={actor.status} as={actor.status === 'RUNNING' ? 'good' : undefined} />
                </span>
                {!narrow && (
                  <>
                    <span
                      className="num"
                      style={actor.restarts > 0 ? { color: 'var(--warn)', fontWeight: 600 } : undefined}
                    >
                      {actor.restarts}
                    </span>
                    <Mailbox actor={actor} />
                    <span className="dim">
                      <Took from={actor.startedAt} to={null} />
                    </span>
                    <span className="dim clip" title={actor.lastFailure?.message}>
                      {actor.lastFailure && (
                        <>
                          {actor.lastFailure.message}
                          {actor.lastFailure.recoveredInMs !== null &&
                            ` (back in ${duration(actor.lastFailure.recoveredInMs)})`}
                        </>
                      )}
                    </span>
                  </>
                )}
              </div>
            );
          })}
        </div>
      </div>
    </>
  );
}

function Mailbox({ actor }: { actor: TreeActor }) {
  if (actor.mailboxBound === 0) return <span />;
  const share = Math.min(1, actor.mailbox / actor.mailboxBound);
  return (
    <span
      style={{ display: 'flex', alignItems: 'center', gap: 6 }}
      title={`${actor.mailbox} of at most ${actor.mailboxBound}`}
    >
      <span className="num" style={{ minWidth: '2ch' }}>
        {actor.mailbox}
      </span>
      <span style={{ flex: 1, maxWidth: 46, height: 5, borderRadius: 3, background: 'var(--idle-soft)' }} aria-hidden>
        <span
          style={{
            display: 'block',
            height: 5,
            borderRadius: 3,
            width: `${share * 100}%`,
            background: share > 0.7 ? 'var(--bad)' : 'var(--busy)',
          }}
        />
      </span>
    </span>
  );
}

export function ChangeText({ change }: { change: Change }) {
  const words: Record<Change['change'], string> = {
    STARTED: 'started',
    STOPPED: 'stopped',
    FAILED: 'failed',
    RESTARTED: 'is back',
    GAVE_UP: 'was given up',
    REMOVED: 'was removed',
    LAGGED: 'changes were missed',
  };
  return (
    <Text
      size="sm"
      component="span"
      style={{
        color:
          change.change === 'FAILED' || change.change === 'GAVE_UP'
            ? 'var(--bad)'
            : change.change === 'RESTARTED'
              ? 'var(--good)'
              : undefined,
      }}
    >
      {words[change.change]}
      {change.tookMs !== null && ` after ${duration(change.tookMs)}`}
      {change.message && `: ${change.message}`}
    </Text>
  );
}
