// All swarms: how many agents each has, what waits, what runs, what failed.
import { Link } from '@tanstack/react-router';
import { graphql } from '../live/graphql';
import { useLive } from '../live/use_live';
import { counted } from '../overview/counted';
import { touchesTasks } from '../tasks/filter';
import { count, money } from '../ui/figures';
import { Empty, Freshness, PageHead, Shown } from '../ui/shown';
import { word } from '../ui/state';

const SWARMS = graphql(`
  query Swarms($atLeast: Cursor) {
    swarms(first: 200, atLeast: $atLeast) {
      nodes { id name agentCount strategy maxQueued shards { number } taskCounts { status count } usage { money { amount currency } } }
      pageInfo { hasNextPage }
    }
  }
`);

const PARTS = [
  { name: 'waiting', statuses: ['PENDING', 'QUEUED', 'RETRYING'], color: 'var(--idle)' },
  { name: 'running', statuses: ['ASSIGNED', 'RUNNING', 'VERIFYING'], color: 'var(--busy)' },
  { name: 'succeeded', statuses: ['SUCCEEDED'], color: 'var(--good)' },
  { name: 'failed', statuses: ['FAILED', 'DEAD'], color: 'var(--bad)' },
] as const;

export function Swarms() {
  const live = useLive(
    SWARMS,
    {},
    { touches: (event) => touchesTasks(event) || /^(Swarm|Agent)(Added|Removed)/.test(event.kind), paceMs: 800 },
  );
  return (
    <div className="page">
      <PageHead title="Swarms">
        <Freshness live={live} />
      </PageHead>
      <Shown live={live}>
        {({ swarms }) =>
          swarms.nodes.length === 0 ? (
            <div className="card">
              <Empty title="There are no swarms">
                Make one: <code>hiveward swarm create NAME</code>
              </Empty>
            </div>
          ) : (
            <ul className="bare swarm-grid" data-stale={live.stale ? 'true' : undefined}>
              {swarms.nodes.map((swarm) => (
                <li key={swarm.id} className="card shown">
                  <div style={{ display: 'flex', justifyContent: 'space-between', gap: 8, alignItems: 'baseline' }}>
                    <Link
                      to="/swarms/$swarm"
                      params={{ swarm: swarm.id }}
                      className="clip"
                      style={{ fontWeight: 650, fontSize: '1.05rem' }}
                    >
                      {swarm.name}
                    </Link>
                    <span className="dim num" style={{ whiteSpace: 'nowrap', fontSize: '0.85rem' }}>
                      {count(swarm.agentCount)} {swarm.agentCount === 1 ? 'agent' : 'agents'}
                    </span>
                  </div>
                  <div className="dim" style={{ fontSize: '0.82rem', margin: '2px 0 10px' }}>
                    {word(swarm.strategy)} ·{' '}
                    {swarm.shards.length === 1 ? 'one coordinator' : `${swarm.shards.length} shards`}
                    {swarm.usage?.money && ` · ${money(swarm.usage.money)} on models`}
                  </div>
                  <div className="swarm-figures">
                    {PARTS.map((part) => (
                      <Link
                        key={part.name}
                        to="/tasks"
                        search={{ view: 'table', swarm: swarm.name, status: [...part.statuses] }}
                      >
                        <span className="num" style={{ fontSize: '1.2rem', fontWeight: 650, color: part.color }}>
                          {count(counted([swarm], ...part.statuses))}
                        </span>
                        <span className="dim" style={{ fontSize: '0.76rem' }}>
                          {part.name}
                        </span>
                      </Link>
                    ))}
                  </div>
                </li>
              ))}
            </ul>
          )
        }
      </Shown>
    </div>
  );
}
