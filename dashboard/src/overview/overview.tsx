// The first screen: what needs a person, then how the hive is doing.
import { Group, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { EventLine } from '../events/line';
import { useRecentEvents } from '../live/feed';
import { graphql, type ResultOf } from '../live/graphql';
import { type Live, useLive } from '../live/use_live';
import { rate, useSamples } from '../metrics/samples';
import { count, many, money, sum } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, PageHead, Panel, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { Tile } from '../ui/tile';
import { Attention } from './attention';
import { counted } from './counted';

const OVERVIEW = graphql(`
  query Overview($atLeast: Cursor) {
    cluster { term noQuorum disk viewLag leader { id } nodes { id status leader voter suspected why troubled { path key why } address entities loadAverage cores drain { entitiesLeft } } }
    swarms(first: 100, atLeast: $atLeast) { nodes { id name agentCount taskCounts { status count } } }
    approvals(first: 5, filter: { status: [OPEN] }, atLeast: $atLeast) {
      nodes { id tool askedAt until agent { id name } task { id title } }
      pageInfo { hasNextPage }
    }
    dead: tasks(first: 5, filter: { status: [DEAD] }, orderBy: CREATED_DESC, atLeast: $atLeast) { nodes { id title endedAt error } }
    failed: tasks(first: 5, filter: { status: [FAILED] }, orderBy: CREATED_DESC, atLeast: $atLeast) { nodes { id title endedAt error } }
    agents(first: 20, filter: { status: [FAILED, LOST] }, atLeast: $atLeast) { nodes { id name status lastFailure } pageInfo { hasNextPage } }
    hosts(first: 5, filter: { status: [UNREACHABLE, LOST] }, atLeast: $atLeast) { nodes { id name status why } pageInfo { hasNextPage } }
    vms(first: 5, filter: { status: [FAILED, LOST] }, atLeast: $atLeast) { nodes { id name status failure } pageInfo { hasNextPage } }
    budgets(first: 100, atLeast: $atLeast) { nodes { id scope warned warnPercent limit { tokens money { amount currency } } spent { tokens money { amount currency } } } }
    usage(first: 100, by: SWARM, atLeast: $atLeast) { nodes { calls incomplete money { amount currency } } pageInfo { hasNextPage } }
  }
`);

export type OverviewData = ResultOf<typeof OVERVIEW>;

export function Overview() {
  const live = useLive(OVERVIEW, {}, { paceMs: 1_000, everyMs: 10_000 });
  return (
    <div className="page">
      <PageHead title="Overview" />
      <Panel title="Needs a person" live={live}>
        <Shown live={live}>{(data) => <Attention data={data} />}</Shown>
      </Panel>
      <Tiles live={live} />
      <div className="two">
        <RecentEvents />
        <div style={{ display: 'flex', flexDirection: 'column', gap: '1rem', minWidth: 0 }}>
          <Panel title="Swarms" live={live} right={<Link to="/swarms">All</Link>}>
            <Shown live={live}>{(data) => <SwarmList swarms={data.swarms.nodes} />}</Shown>
          </Panel>
          <Panel title="Nodes" live={live} right={<Link to="/cluster">Cluster</Link>}>
            <Shown live={live}>{(data) => <NodeList cluster={data.cluster} />}</Shown>
          </Panel>
        </div>
      </div>
    </div>
  );
}

/** Seconds that the small lines show. */
const TRAIL = 60;

function Tiles({ live }: { live: Live<OverviewData> }) {
  const samples = useSamples();
  const last = samples.at(-1);
  const ended = rate(samples, 'tasksEndedTotal');
  const trail = samples.slice(-TRAIL);
  const rates = trail.map((_, index) => rate(trail.slice(0, index + 1), 'tasksEndedTotal', 5) ?? null);
  const { data } = live;
  const up = data?.cluster.nodes.filter((node) => node.status === 'UP' && !node.suspected).length;
  return (
    <div className="tiles" data-stale={live.stale && live.at > 0 ? 'true' : undefined}>
      <Tile
        label="Ended per second"
        value={ended === undefined ? undefined : ended < 10 ? ended.toFixed(1) : count(Math.round(ended))}
        note={last && `${count(last.tasksEndedTotal)} in all`}
        trail={rates}
        to="/metrics"
      />
      <Tile
        label="Tasks waiting"
        value={last && count(last.tasksQueued)}
        note="for an agent, a time or each other"
        trail={trail.map((each) => each.tasksQueued)}
        to="/tasks"
        search={{ view: 'table', status: ['PENDING', 'QUEUED', 'RETRYING'] }}
      />
      <Tile
        label="Tasks running"
        value={last && count(last.tasksRunning)}
        note="leased to an agent"
        trail={trail.map((each) => each.tasksRunning)}
        to="/tasks"
        search={{ view: 'table', status: ['ASSIGNED', 'RUNNING', 'VERIFYING'] }}
      />
      <Tile
        label="Agents running"
        value={last && count(last.agentsRunning)}
        note={data && `of ${count(data.swarms.nodes.reduce((all, swarm) => all + swarm.agentCount, 0))}`}
        trail={trail.map((each) => each.agentsRunning)}
        to="/agents"
      />
      <SpendTile data={data} />
      <Tile
        label="Nodes up"
        value={data && `${up} of ${data.cluster.nodes.length}`}
        note={data && (data.cluster.noQuorum ?? (data.cluster.leader ? 'with a leader' : 'no leader now'))}
        to="/cluster"
      />
    </div>
  );
}

function SpendTile({ data }: { data: OverviewData | undefined }) {
  const lines = data?.usage.nodes ?? [];
  const calls = lines.reduce((all, line) => all + line.calls, 0);
  const priced = lines.flatMap((line) => (line.money ? [line.money] : []));
  const currency = priced[0]?.currency;
  const value =
    currency && priced.length === lines.length
      ? money({ amount: sum(priced.map(({ amount }) => amount)), currency })
      : undefined;
  return (
    <Tile
      label="Spend on models"
      value={value}
      note={
        !data
          ? undefined
          : calls === 0
            ? 'no calls yet'
            : value
              ? many(calls, 'call')
              : `${many(calls, 'call')}, not all priced`
      }
      to="/spend"
    />
  );
}

function RecentEvents() {
  const events = useRecentEvents();
  return (
    <Panel title="Events" right={<Link to="/events">All, with filters</Link>}>
      {events.length === 0 ? (
        <Empty title="Nothing has happened since this page was opened">
          What happens from now on shows here at once.
        </Empty>
      ) : (
        <ul className="bare" aria-label="Recent events">
          {events.slice(0, 16).map((event) => (
            <li key={event.cursor}>
              <EventLine event={event} />
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

function SwarmList({ swarms }: { swarms: OverviewData['swarms']['nodes'] }) {
  if (swarms.length === 0) return <Empty title="There are no swarms">Make one with hiveward swarm create.</Empty>;
  return (
    <ul className="bare">
      {swarms.slice(0, 8).map((swarm) => {
        const waiting = counted([swarm], 'PENDING', 'QUEUED', 'RETRYING');
        const running = counted([swarm], 'ASSIGNED', 'RUNNING', 'VERIFYING');
        return (
          <li
            key={swarm.id}
            style={{
              display: 'flex',
              justifyContent: 'space-between',
              gap: '1rem',
              padding: '0.2rem 0',
              fontSize: '0.9rem',
            }}
          >
            <span className="clip">
              <KeyLink id={swarm.id} name={swarm.name} />
            </span>
            <span className="dim num" style={{ whiteSpace: 'nowrap' }}>
              {count(swarm.agentCount)} agents · {count(waiting)} waiting · {count(running)} running
            </span>
          </li>
        );
      })}
    </ul>
  );
}

function NodeList({ cluster }: { cluster: OverviewData['cluster'] }) {
  return (
    <ul className="bare">
      {cluster.nodes.slice(0, 12).map((node) => (
        <li key={node.id} style={{ padding: '0.2rem 0' }}>
          <Group justify="space-between" gap="xs" wrap="nowrap">
            <span className="clip">
              <KeyLink id={node.id} /> {node.leader && <span className="dim">leader</span>}
            </span>
            <Group gap="xs" wrap="nowrap">
              <Text size="sm" c="dimmed" className="num" style={{ whiteSpace: 'nowrap' }}>
                {node.loadAverage !== null && `load ${node.loadAverage.toFixed(1)} of ${node.cores}`}
              </Text>
              <State status={node.status} as={node.suspected ? 'warn' : undefined} />
            </Group>
          </Group>
        </li>
      ))}
    </ul>
  );
}
