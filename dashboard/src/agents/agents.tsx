// All agents at once, those that need somebody first; a thousand and more stay smooth because only what is in view is drawn.
import { Alert, Group, MultiSelect, SegmentedControl } from '@mantine/core';
import { useElementSize } from '@mantine/hooks';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useVirtualizer } from '@tanstack/react-virtual';
import { useMemo, useRef } from 'react';
import type { AgentSearch } from '../app/router';
import { touchesApprovals } from '../approvals/approvals';
import type { FeedEvent } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';
import { useAll } from '../live/use_all';
import { useLive } from '../live/use_live';
import { Words } from '../tasks/tasks';
import { count } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, Freshness, PageHead, ProblemNote, Shown } from '../ui/shown';
import { State, tone, word } from '../ui/state';
import { Ago } from '../ui/time';
import { type Column, VirtualTable } from '../ui/virtual_table';
import { byAttention } from './attention';

const AGENTS = graphql(`
  query Agents($filter: AgentFilter, $first: Int, $after: String, $atLeast: Cursor) {
    agents(filter: $filter, first: $first, after: $after, atLeast: $atLeast) {
      nodes { id name status running succeeded failed lastFailure startedAt connector { kind } swarm { id name } }
      pageInfo { endCursor hasNextPage }
    }
  }
`);
const ASKING = graphql(`
  query Asking($atLeast: Cursor) { approvals(first: 200, filter: { status: [OPEN] }, atLeast: $atLeast) { nodes { agent { id } } } }
`);

type Agent = ResultOf<typeof AGENTS>['agents']['nodes'][number];
type AgentStatus = NonNullable<Agent['status']>;

export const AGENT_STATUSES: AgentStatus[] = [
  'FAILED',
  'LOST',
  'PAUSED',
  'STARTING',
  'STOPPING',
  'BUSY',
  'IDLE',
  'CREATED',
  'STOPPED',
];

const route = getRouteApi('/agents');

export function touchesAgents(event: FeedEvent): boolean {
  return (
    event.agent !== null ||
    event.kind.startsWith('Agent') ||
    event.kind.startsWith('Node') ||
    event.stream.startsWith('agent_')
  );
}

export function Agents() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const change = (next: Partial<AgentSearch>) =>
    void navigate({ search: (before) => ({ ...before, ...next }), replace: true });
  const filter = useMemo(() => {
    const status = AGENT_STATUSES.filter((each) => search.status?.includes(each));
    return {
      nameContains: search.name,
      swarm: search.swarm,
      skill: search.skill,
      status: status.length > 0 ? status : undefined,
    };
  }, [search.name, search.swarm, search.skill, search.status]);
  const all = useAll(AGENTS, { filter }, (data) => data.agents, touchesAgents);
  const approvals = useLive(ASKING, {}, { touches: touchesApprovals });
  const asking = useMemo(
    () => new Set(approvals.data?.approvals.nodes.flatMap(({ agent }) => (agent ? [agent.id] : [])) ?? []),
    [approvals.data],
  );
  const sorted = useMemo(() => byAttention(all.rows, asking), [all.rows, asking]);
  const counts = useMemo(() => {
    const counted = new Map<string, number>();
    for (const { status } of all.rows) counted.set(status, (counted.get(status) ?? 0) + 1);
    return counted;
  }, [all.rows]);
  return (
    <div className="page page-full">
      <PageHead
        title="Agents"
        note={
          all.loading
            ? undefined
            : `${count(all.rows.length)}${filter.status || filter.nameContains || filter.swarm || filter.skill ? ' match' : ''}; who needs somebody is first`
        }
      >
        <Freshness live={all} />
        <SegmentedControl
          size="xs"
          aria-label="How agents are shown"
          value={search.view ?? 'grid'}
          onChange={(view) => change({ view: view === 'table' ? 'table' : undefined })}
          data={[
            { value: 'grid', label: 'Grid' },
            { value: 'table', label: 'Table' },
          ]}
        />
      </PageHead>
      <Group gap="xs" align="flex-end">
        <Words label="Name contains" value={search.name} change={(name) => change({ name })} width={150} />
        <MultiSelect
          size="xs"
          label="Status"
          placeholder={search.status ? undefined : 'any'}
          data={AGENT_STATUSES.map((value) => ({ value, label: word(value) }))}
          value={search.status ?? []}
          onChange={(status) => change({ status: status.length > 0 ? status : undefined })}
          clearable
          w={{ base: '100%', xs: 220 }}
        />
        <Words label="Swarm" value={search.swarm} change={(swarm) => change({ swarm })} width={110} />
        <Words label="Skill" value={search.skill} change={(skill) => change({ skill })} width={110} />
        <Group gap={6} ml="auto">
          {AGENT_STATUSES.filter((status) => counts.has(status)).map((status) => (
            <span key={status} className={`state tone-${tone(status)}`}>
              {counts.get(status)} {word(status)}
            </span>
          ))}
        </Group>
      </Group>
      {all.problem && <ProblemNote problem={all.problem} retry={all.refresh} at={all.at} />}
      {all.cut && (
        <Alert color="yellow" variant="light">
          Only the first {count(all.rows.length)} are shown. Filter to see others.
        </Alert>
      )}
      {all.loading ? (
        <div className="card">
          <Shown live={{ ...all, data: undefined }} rows={8}>
            {() => null}
          </Shown>
        </div>
      ) : sorted.length === 0 ? (
        <div className="card">
          <Empty title="No agent is like this">
            Clear the filters, or make one: <code>hiveward agent create NAME</code>
          </Empty>
        </div>
      ) : search.view === 'table' ? (
        <section
          className="card card-tight"
          style={{ flex: 1, minHeight: 0, display: 'flex' }}
          data-stale={all.stale ? 'true' : undefined}
        >
          <VirtualTable label="Agents" rows={sorted} columns={COLUMNS} minWidth={860} />
        </section>
      ) : (
        <Grid agents={sorted} asking={asking} stale={all.stale} />
      )}
    </div>
  );
}

const COLUMNS: Column<Agent>[] = [
  { key: 'status', head: 'Status', width: '6.6rem', cell: (agent) => <State status={agent.status} /> },
  {
    key: 'name',
    head: 'Name',
    width: 'minmax(9rem, 2fr)',
    cell: (agent) => <KeyLink id={agent.id} name={agent.name} />,
  },
  {
    key: 'swarm',
    head: 'Swarm',
    width: 'minmax(6rem, 1fr)',
    cell: (agent) => agent.swarm && <KeyLink id={agent.swarm.id} name={agent.swarm.name} />,
  },
  { key: 'connector', head: 'Connector', width: '6.5rem', cell: (agent) => agent.connector.kind },
  { key: 'running', head: 'Running', width: '4.5rem', cell: (agent) => <span className="num">{agent.running}</span> },
  {
    key: 'succeeded',
    head: 'Succeeded',
    width: '5.5rem',
    cell: (agent) => <span className="num">{count(agent.succeeded)}</span>,
  },
  {
    key: 'failed',
    head: 'Failed',
    width: '4.5rem',
    cell: (agent) => <span className="num">{count(agent.failed)}</span>,
  },
  { key: 'started', head: 'Started', width: '6rem', cell: (agent) => <Ago at={agent.startedAt} /> },
  {
    key: 'failure',
    head: 'Last failure',
    width: 'minmax(8rem, 2fr)',
    cell: (agent) => (
      <span className="dim" title={agent.lastFailure ?? undefined}>
        {agent.lastFailure}
      </span>
    ),
  },
];

const TILE_MIN = 176;
const GAP = 8;
const ROW = 74;

function Grid({ agents, asking, stale }: { agents: Agent[]; asking: ReadonlySet<string>; stale: boolean }) {
  const scroller = useRef<HTMLDivElement>(null);
  const { ref, width } = useElementSize();
  const across = Math.max(1, Math.floor((Math.max(width, TILE_MIN) + GAP) / (TILE_MIN + GAP)));
  const virtual = useVirtualizer({
    count: Math.ceil(agents.length / across),
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW + GAP,
    overscan: 4,
  });
  return (
    <div
      ref={scroller}
      style={{ flex: 1, minHeight: 0, overflow: 'auto' }}
      tabIndex={0}
      role="region"
      aria-label="Agents"
      data-stale={stale ? 'true' : undefined}
    >
      <div ref={ref} className="shown" style={{ height: virtual.getTotalSize(), position: 'relative' }}>
        {virtual.getVirtualItems().map((row) => (
          <div
            key={row.key}
            style={{
              position: 'absolute',
              left: 0,
              right: 0,
              transform: `translateY(${row.start}px)`,
              display: 'grid',
              gridTemplateColumns: `repeat(${across}, minmax(0, 1fr))`,
              gap: GAP,
            }}
          >
            {agents.slice(row.index * across, (row.index + 1) * across).map((agent) => (
              <AgentTile key={agent.id} agent={agent} asks={asking.has(agent.id)} />
            ))}
          </div>
        ))}
      </div>
    </div>
  );
}

function AgentTile({ agent, asks }: { agent: Agent; asks: boolean }) {
  return (
    <Link
      to="/agents/$agent"
      params={{ agent: agent.id }}
      className={`agent-tile edge-${asks ? 'warn' : tone(agent.status)}`}
      style={{ height: ROW }}
    >
      <span style={{ display: 'flex', justifyContent: 'space-between', gap: 6, alignItems: 'center' }}>
        <span className="clip" style={{ fontWeight: 600 }} title={agent.name}>
          {agent.name}
        </span>
        <State status={asks ? 'asks' : agent.status} as={asks ? 'warn' : undefined} />
      </span>
      <span className="clip dim" style={{ fontSize: '0.76rem' }} title={agent.lastFailure ?? undefined}>
        {agent.status === 'FAILED' || agent.status === 'LOST'
          ? (agent.lastFailure ?? 'no reason known')
          : `${agent.swarm?.name ?? 'no swarm'} · ${agent.connector.kind}`}
      </span>
      <span className="num dim clip" style={{ fontSize: '0.76rem' }}>
        {agent.running} running · {count(agent.succeeded)} done · {count(agent.failed)} failed
      </span>
    </Link>
  );
}
