// One network: what it is, and which VMs are on it with which cards and addresses.
import { getRouteApi, useNavigate } from '@tanstack/react-router';
import { useMemo } from 'react';
import { EntityEvents } from '../events/of_entity';
import { FLEET_PAGE } from '../hosts/query';
import { graphql, type ResultOf } from '../live/graphql';
import { useAll } from '../live/use_all';
import { useLive } from '../live/use_live';
import { EntityHead, EntityPage } from '../ui/entity';
import { count } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, Panel, ProblemNote, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { Ago } from '../ui/time';
import { RemoveNetwork } from './add';
import { KINDS, kindLabel, NETWORK_VMS, touchesNetworks } from './query';

const NETWORK = graphql(`
  query Network($id: ID!, $atLeast: Cursor) {
    node(id: $id, atLeast: $atLeast) {
      __typename
      ... on Network { id name kind cidr vni mtu bridge vmCount hostCount hosts addedAt }
    }
  }
`);

type NetworkData = Extract<ResultOf<typeof NETWORK>['node'], { __typename: 'Network' }>;

const route = getRouteApi('/networks/$network');

export function NetworkPage() {
  const { network: id } = route.useParams();
  const live = useLive(NETWORK, { id }, { touches: touchesNetworks });
  return (
    <EntityPage live={live} type="Network" id={id} noun="network" all={{ to: '/networks', label: 'All networks' }}>
      {(network) => <Loaded key={network.id} network={network} live={live} />}
    </EntityPage>
  );
}

function given({ kind, cidr }: NetworkData): string {
  if (kind === 'OVERLAY')
    return cidr === null
      ? 'none by the cluster: the guests see to them themselves'
      : `${cidr}, given out by the cluster; a VM keeps its own wherever it runs`;
  if (kind === 'NAT') return `${cidr ?? 'its range'}, given out by each host, which the cluster does not know`;
  return kind === 'BRIDGE' ? 'by whoever gives them on that bridge' : 'the guests’ own';
}

function Loaded({ network, live }: { network: NetworkData; live: { stale: boolean; at: number } }) {
  const navigate = useNavigate();
  const vms = useAll(NETWORK_VMS, {}, (data) => data.vms, touchesNetworks, { page: FLEET_PAGE });
  const { id, name, kind } = network;
  return (
    <>
      <EntityHead title={name} id={id} live={live}>
        <RemoveNetwork network={network} done={() => void navigate({ to: '/networks' })} />
      </EntityHead>
      <div data-stale={live.stale ? 'true' : undefined}>
        <Panel title={`An ${kindLabel(kind)} network`.replace(/^An (?=[bN])/, 'A ')}>
          <dl className="facts">
            <dt>Who is on it</dt>
            <dd>{KINDS.find((each) => each.kind === kind)?.what}</dd>
            <dt>Addresses</dt>
            <dd>{given(network)}</dd>
            {network.vni !== null && (
              <>
                <dt>VXLAN</dt>
                <dd className="num">
                  number {network.vni}, which no other network ever gets
                  {network.mtu !== null && `; frames of ${network.mtu} bytes at most`}
                </dd>
              </>
            )}
            {network.bridge !== null && (
              <>
                <dt>Bridge</dt>
                <dd className="mono">{network.bridge}</dd>
              </>
            )}
            <dt>On hosts</dt>
            <dd>
              {network.hostCount === 0 ? (
                <span className="dim">none yet: a host makes it just before it runs a VM of it</span>
              ) : (
                <>
                  {network.hosts.join(', ')}
                  {network.hostCount > network.hosts.length && ` and ${network.hostCount - network.hosts.length} more`}
                </>
              )}
            </dd>
            <dt>Made</dt>
            <dd>
              <Ago at={network.addedAt} />
            </dd>
          </dl>
        </Panel>
      </div>
      <Panel title={`VMs on it (${count(network.vmCount)})`} live={vms}>
        {vms.problem && <ProblemNote problem={vms.problem} retry={vms.refresh} at={vms.at} />}
        {vms.loading ? (
          <Shown live={{ ...vms, data: undefined }}>{() => null}</Shown>
        ) : (
          <Members network={id} vms={vms.rows} />
        )}
      </Panel>
      <Panel title="History" live={live}>
        <EntityEvents filter={{ noun: ['roster'] }} about={id} />
      </Panel>
    </>
  );
}

type Member = ResultOf<typeof NETWORK_VMS>['vms']['nodes'][number];

/** In the order of addresses, as numbers are. */
const ORDER = new Intl.Collator(undefined, { numeric: true });

function Members({ network, vms }: { network: string; vms: readonly Member[] }) {
  const members = useMemo(
    () =>
      vms
        .flatMap((vm) => vm.networkAddresses.filter((each) => each.networkId === network).map((card) => ({ vm, card })))
        .sort((one, other) => ORDER.compare(one.card.address ?? one.vm.name, other.card.address ?? other.vm.name)),
    [vms, network],
  );
  if (members.length === 0)
    return (
      <Empty title="No VM is on it">
        Put one on it from its page, or with <code>hiveward vm attach-network VM NETWORK</code>.
      </Empty>
    );
  return (
    <section className="scroll-x" tabIndex={0} aria-label="VMs on it">
      <table className="plain">
        <thead>
          <tr>
            <th>VM</th>
            <th>Status</th>
            <th>Host</th>
            <th>Address</th>
            <th>Card</th>
          </tr>
        </thead>
        <tbody>
          {members.map(({ vm, card }) => (
            <tr key={card.mac}>
              <td>
                <KeyLink id={vm.id} name={vm.name} />
              </td>
              <td>
                <State status={vm.status} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                {vm.host ? <KeyLink id={vm.host.id} name={vm.host.name} /> : <span className="dim">removed</span>}
              </td>
              <td className="mono">{card.address ?? <span className="dim">not the cluster’s to give</span>}</td>
              <td className="mono">{card.mac}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
