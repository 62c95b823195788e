// VMs that wait booted for the next attempts of agents: who asked for them, and how many there are.
import { useMemo } from 'react';
import { FLEET_PAGE, touchesFleet } from '../hosts/query';
import { graphql, type ResultOf } from '../live/graphql';
import { useAll } from '../live/use_all';
import { never, useLive } from '../live/use_live';
import { count } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { State } from '../ui/state';
import { Tile } from '../ui/tile';

const WAITING = graphql(`
  query WaitingVms($first: Int, $after: String, $atLeast: Cursor) {
    vms(first: $first, after: $after, atLeast: $atLeast) {
      nodes { id name status warmFor }
      pageInfo { endCursor hasNextPage }
    }
  }
`);
const NAME = graphql(`query AgentName($id: ID!) { node(id: $id) { __typename ... on Agent { id name } } }`);

type Waiting = ResultOf<typeof WAITING>['vms']['nodes'][number];

/** A VM waits when its guest has booted; one that is being made for that is not ready yet. */
export function isReady({ warmFor, status }: { warmFor: string | null; status: string }): boolean {
  return warmFor !== null && status === 'RUNNING';
}

export function AgentName({ id }: { id: string }) {
  const live = useLive(NAME, { id }, { touches: never });
  const agent = live.data?.node?.__typename === 'Agent' ? live.data.node : undefined;
  return <KeyLink id={id} name={agent?.name} />;
}

/** Those that were made for one of these agents. */
function useWaiting(agents: readonly string[]) {
  const all = useAll(WAITING, {}, (data) => data.vms, touchesFleet, { page: FLEET_PAGE });
  const known = agents.join();
  const rows = useMemo(() => {
    const asked = new Set(known.split(','));
    return all.rows.filter((vm): vm is Waiting & { warmFor: string } => vm.warmFor !== null && asked.has(vm.warmFor));
  }, [all.rows, known]);
  return { ...all, rows };
}

/** Of one agent that asked for some, as rows of its facts. */
export function WarmVms({ agent, wanted }: { agent: string; wanted: number }) {
  const waiting = useWaiting([agent]);
  const ready = waiting.rows.filter(isReady).length;
  return (
    <>
      <dt>VMs that wait</dt>
      <dd>
        {waiting.loading ? (
          <span className="dim">…</span>
        ) : (
          <>
            <span className="num">
              {count(ready)} of {count(wanted)}
            </span>{' '}
            {ready === wanted ? 'are ready for its next attempts' : 'are ready; the others are being made'}
            <ul className="bare" aria-label="VMs that wait for it">
              {waiting.rows.map((vm) => (
                <li key={vm.id}>
                  <KeyLink id={vm.id} name={vm.name} /> <State status={vm.status} />
                </li>
              ))}
            </ul>
          </>
        )}
      </dd>
    </>
  );
}

/** Of all agents of a swarm together. */
export function WarmTile({ agents, wanted }: { agents: readonly string[]; wanted: number }) {
  const waiting = useWaiting(agents);
  return (
    <Tile
      label="VMs ready"
      value={waiting.loading ? undefined : count(waiting.rows.filter(isReady).length)}
      note={`of ${count(wanted)} that wait for attempts`}
      to="/hosts"
    />
  );
}
