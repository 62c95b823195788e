// One swarm: its coordinators and agents as a graph with what flows between them, its queue, its plans.
import { Skeleton, Text } from '@mantine/core';
import { getRouteApi } from '@tanstack/react-router';
import { lazy, Suspense } from 'react';
import type { FeedEvent } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { counted } from '../overview/counted';
import { EntityHead, EntityPage } from '../ui/entity';
import { count, many, money } from '../ui/figures';
import type { Arrow, Vertex } from '../ui/graph';
import { KeyLink, shortKey } from '../ui/key';
import { Empty, Panel } from '../ui/shown';
import { State, word } from '../ui/state';
import { Tile } from '../ui/tile';
import { Ago, Took } from '../ui/time';
import { WarmTile } from '../vms/warm';
import { SwarmActions } from './actions';
import { type Flow, OVER_MS, useFlows } from './flow';

const LinkedGraph = lazy(() => import('../ui/graph'));

const SWARM = graphql(`
  query Swarm($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Swarm {
        id name createdAt agentCount maxQueued maxRunning strategy topology
        weights { specialisation success free maxLoad }
        shards { number nodeId queued running agentCount }
        taskCounts { status count }
        usage { calls money { amount currency } }
        agents(first: 200) { nodes { id name status running session { vm { warm } } } pageInfo { hasNextPage } }
        live: tasks(first: 15, filter: { status: [ASSIGNED, RUNNING, VERIFYING] }, orderBy: CREATED_DESC) { nodes { id title status startedAt } }
        waiting: tasks(first: 15, filter: { status: [PENDING, QUEUED, RETRYING] }, orderBy: PRIORITY_THEN_CREATED) { nodes { id title status createdAt why } }
      }
    }
  }
`);

type SwarmData = Extract<ResultOf<typeof SWARM>['node'], { __typename: 'Swarm' }>;

const route = getRouteApi('/swarms/$swarm');

export function SwarmPage() {
  const { swarm: id } = route.useParams();
  const live = useLive(
    SWARM,
    { id },
    {
      touches: (event: FeedEvent) => event.stream === id || event.agent !== null || event.kind === 'Placed',
      paceMs: 1_000,
    },
  );
  return (
    <EntityPage live={live} type="Swarm" id={id} noun="swarm" all={{ to: '/swarms', label: 'All swarms' }}>
      {(swarm) => <Loaded swarm={swarm} live={live} refresh={live.refresh} />}
    </EntityPage>
  );
}

/** More agents than this are drawn as groups by state. */
const DRAWN_MAX = 40;

export function topology(swarm: SwarmData, flows: ReadonlyMap<string, Flow>): { vertices: Vertex[]; arrows: Arrow[] } {
  const vertices: Vertex[] = [];
  const arrows: Arrow[] = [];
  const rate = (flow: Flow | undefined) =>
    flow && flow.assigned + flow.ended > 0 ? `${flow.assigned} → ${flow.ended}` : undefined;
  const one = swarm.shards.length === 1;
  vertices.push({
    id: swarm.id,
    label: swarm.name,
    note: one
      ? `coordinator on ${swarm.shards[0]?.nodeId ? shortKey(swarm.shards[0].nodeId) : 'no node now'}`
      : 'swarm',
    here: true,
  });
  if (!one) {
    // Which shard an agent belongs to is not told, so shards stand beside the agents.
    for (const shard of swarm.shards) {
      const id = `shard ${shard.number}`;
      vertices.push({
        id,
        label: `Shard ${shard.number}: ${shard.agentCount} agents`,
        note: `${shard.queued} waiting, ${shard.running} running, on ${shard.nodeId ? shortKey(shard.nodeId) : 'no node'}`,
      });
      arrows.push({ from: swarm.id, to: id });
    }
  }
  const agents = swarm.agents.nodes;
  if (agents.length <= DRAWN_MAX) {
    for (const agent of agents) {
      vertices.push({
        id: agent.id,
        label: agent.name,
        status: agent.status,
        note: agent.running > 0 ? `${agent.running} running` : undefined,
      });
      arrows.push({ from: swarm.id, to: agent.id, label: rate(flows.get(agent.id)), busy: agent.running > 0 });
    }
    return { vertices, arrows };
  }
  const groups = new Map<string, typeof agents>();
  for (const agent of agents) groups.set(agent.status, [...(groups.get(agent.status) ?? []), agent]);
  for (const [status, members] of groups) {
    const id = `group ${status}`;
    const flow = members.reduce(
      (sum, { id: member }) => {
        const own = flows.get(member);
        return own ? { assigned: sum.assigned + own.assigned, ended: sum.ended + own.ended } : sum;
      },
      { assigned: 0, ended: 0 },
    );
    const running = members.reduce((all, { running: each }) => all + each, 0);
    vertices.push({
      id,
      label: `${members.length}${swarm.agents.pageInfo.hasNextPage ? ' or more' : ''} agents`,
      status,
      note: `${running} running`,
    });
    arrows.push({ from: swarm.id, to: id, label: rate(flow), busy: running > 0 });
  }
  return { vertices, arrows };
}

function Loaded({
  swarm,
  live,
  refresh,
}: {
  swarm: SwarmData;
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const { flows, since } = useFlows(swarm.id);
  const { vertices, arrows } = topology(swarm, flows);
  const sum = [...flows.values()].reduce(
    (all, flow) => ({ assigned: all.assigned + flow.assigned, ended: all.ended + flow.ended }),
    { assigned: 0, ended: 0 },
  );
  const warm = swarm.agents.nodes.reduce((all, { session }) => all + (session.vm?.warm ?? 0), 0);
  const whole = Date.now() - since >= OVER_MS;
  return (
    <>
      <EntityHead title={swarm.name} id={swarm.id} live={live}>
        <SwarmActions swarm={swarm} refresh={refresh} />
      </EntityHead>
      <div className="tiles">
        <Tile
          label="Agents"
          value={count(swarm.agentCount)}
          note={`placed by ${word(swarm.strategy)}`}
          to="/agents"
          search={{ swarm: swarm.name }}
        />
        <Tile
          label="Waiting"
          value={count(counted([swarm], 'PENDING', 'QUEUED', 'RETRYING'))}
          note={`of ${count(swarm.maxQueued)} at most, with what runs`}
          to="/tasks"
          search={{ view: 'table', swarm: swarm.name, status: ['PENDING', 'QUEUED', 'RETRYING'] }}
        />
        <Tile
          label="Running"
          value={count(counted([swarm], 'ASSIGNED', 'RUNNING', 'VERIFYING'))}
          note={swarm.maxRunning === null ? 'as many as agents take' : `of ${count(swarm.maxRunning)} at most`}
          to="/tasks"
          search={{ view: 'table', swarm: swarm.name, status: ['ASSIGNED', 'RUNNING', 'VERIFYING'] }}
        />
        <Tile
          label="Succeeded"
          value={count(counted([swarm], 'SUCCEEDED'))}
          to="/tasks"
          search={{ view: 'table', swarm: swarm.name, status: ['SUCCEEDED'] }}
        />
        <Tile
          label="Failed"
          value={count(counted([swarm], 'FAILED', 'DEAD'))}
          to="/tasks"
          search={{ view: 'table', swarm: swarm.name, status: ['FAILED', 'DEAD'] }}
        />
        {warm > 0 && <WarmTile agents={swarm.agents.nodes.map(({ id }) => id)} wanted={warm} />}
        {swarm.usage && (
          <Tile
            label="Spend on models"
            value={swarm.usage.money ? money(swarm.usage.money) : undefined}
            note={many(swarm.usage.calls, 'call')}
            to="/spend"
          />
        )}
      </div>
      <Panel
        title="Topology"
        live={live}
        right={
          <Text size="sm" c="dimmed" className="num">
            {sum.assigned} leases out, {sum.ended} results back{' '}
            {whole ? 'in the last minute' : 'since this page was opened'}
          </Text>
        }
      >
        {swarm.agentCount === 0 ? (
          <Empty title="It has no agents">
            Its tasks wait until it has some: scale it, or make one with hiveward agent create.
          </Empty>
        ) : (
          <Suspense fallback={<Skeleton height={380} />}>
            <LinkedGraph vertices={vertices} arrows={arrows} label={`Topology of ${swarm.name}`} heightMax={560} />
          </Suspense>
        )}
      </Panel>
      <div className="two">
        <Panel title="Next in the queue" live={live}>
          <TaskLines tasks={swarm.waiting.nodes} none="Nothing waits" />
        </Panel>
        <Panel title="Running now" live={live}>
          <TaskLines tasks={swarm.live.nodes} none="Nothing runs" />
        </Panel>
      </div>
    </>
  );
}

type Line = { id: string; title: string; status: string; createdAt?: string; startedAt?: string | null; why?: string };

function TaskLines({ tasks, none }: { tasks: readonly Line[]; none: string }) {
  if (tasks.length === 0) return <Empty title={none} />;
  return (
    <ul className="bare">
      {tasks.map((task) => (
        <li key={task.id} style={{ padding: '0.3rem 0', borderTop: '1px solid var(--line)' }}>
          <div style={{ display: 'flex', gap: 10, alignItems: 'center', minWidth: 0 }}>
            <State status={task.status} />
            <span className="clip" style={{ flex: 1 }}>
              <KeyLink id={task.id} name={task.title} />
            </span>
            <span className="dim" style={{ fontSize: '0.82rem', whiteSpace: 'nowrap' }}>
              {task.createdAt ? <Ago at={task.createdAt} /> : <Took from={task.startedAt} to={null} />}
            </span>
          </div>
          {task.why && (
            <div className="dim two-lines wrap" style={{ fontSize: '0.8rem' }}>
              {task.why}
            </div>
          )}
        </li>
      ))}
    </ul>
  );
}
