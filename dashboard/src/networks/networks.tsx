// The networks that VMs are put on: what kind each is, who is on it and where.

import { FLEET_PAGE } from '../hosts/query';
import { useAll } from '../live/use_all';
import { KeyLink } from '../ui/key';
import { Empty, Freshness, PageHead, Panel, ProblemNote, Shown } from '../ui/shown';
import { Ago } from '../ui/time';
import { CreateNetwork, RemoveNetwork } from './add';
import { KINDS, kindLabel, NETWORKS, type NetworkRow, touchesNetworks } from './query';

export function Networks() {
  const networks = useAll(NETWORKS, {}, (data) => data.networks, touchesNetworks, { page: FLEET_PAGE });
  return (
    <div className="page">
      <PageHead
        title="Networks"
        note="A VM names the networks that it is on. Besides these, it may name a bridge of its host, or a network of its hypervisor’s own."
      >
        <Freshness live={networks} />
        <CreateNetwork done={networks.refresh} />
      </PageHead>
      {networks.problem && <ProblemNote problem={networks.problem} retry={networks.refresh} at={networks.at} />}
      {networks.loading ? (
        <div className="card">
          <Shown live={{ ...networks, data: undefined }} rows={4}>
            {() => null}
          </Shown>
        </div>
      ) : networks.rows.length === 0 ? (
        networks.problem === undefined && (
          <div className="card">
            <Empty title="There are no networks">
              Make one here, or with <code>hiveward network create red --kind overlay --cidr 10.7.0.0/24</code>. A VM
              that names none is on the usual network of its hypervisor.
            </Empty>
          </div>
        )
      ) : (
        <Panel title={`All networks (${networks.rows.length})`} live={networks}>
          <Table networks={networks.rows} refresh={networks.refresh} />
        </Panel>
      )}
    </div>
  );
}

/** What tells it apart from others of its kind. */
export function marks({ kind, vni, bridge, mtu }: NetworkRow): string | undefined {
  if (kind === 'OVERLAY' && vni !== null) return `VXLAN ${vni}${mtu !== null ? `, MTU ${mtu}` : ''}`;
  return kind === 'BRIDGE' && bridge !== null ? bridge : undefined;
}

const HOSTS_NAMED = 4;

function Table({ networks, refresh }: { networks: readonly NetworkRow[]; refresh: () => void }) {
  const sorted = [...networks].sort((one, other) => one.name.localeCompare(other.name));
  const none = <span className="dim">–</span>;
  return (
    <section className="scroll-x" tabIndex={0} aria-label="Networks">
      <table className="plain">
        <thead>
          <tr>
            <th>Name</th>
            <th>Kind</th>
            <th>Range</th>
            <th>Number or bridge</th>
            <th>VMs</th>
            <th>On hosts</th>
            <th>Made</th>
            <th aria-label="Actions" />
          </tr>
        </thead>
        <tbody>
          {sorted.map((network) => (
            <tr key={network.id}>
              <td>
                <KeyLink id={network.id} name={network.name} />
              </td>
              <td title={KINDS.find(({ kind }) => kind === network.kind)?.what}>{kindLabel(network.kind)}</td>
              <td className="num">{network.cidr ?? none}</td>
              <td className="num" style={{ whiteSpace: 'nowrap' }}>
                {marks(network) ?? none}
              </td>
              <td className="num">{network.vmCount}</td>
              <td>
                {network.hostCount === 0 ? (
                  <span className="dim">none yet</span>
                ) : (
                  <>
                    {network.hosts.slice(0, HOSTS_NAMED).join(', ')}
                    {network.hostCount > HOSTS_NAMED && ` and ${network.hostCount - HOSTS_NAMED} more`}
                  </>
                )}
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <Ago at={network.addedAt} />
              </td>
              <td>
                <RemoveNetwork network={network} done={refresh} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
