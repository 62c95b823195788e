// The networks of a VM: its cards and addresses there, putting it on one, taking it off.
import { NativeSelect } from '@mantine/core';
import { Cable, Unplug } from 'lucide-react';
import { useState } from 'react';
import { FLEET_PAGE } from '../hosts/query';
import { graphql } from '../live/graphql';
import { useAll } from '../live/use_all';
import { kindLabel, NETWORKS } from '../networks/query';
import { ConfirmButton, useAct } from '../ui/act';
import { FormButton, TextField, wrong } from '../ui/form';
import { KeyLink } from '../ui/key';
import { Empty, Panel } from '../ui/shown';

const ATTACH = graphql(
  `mutation AttachVmNetwork($input: AttachVmNetworkInput!) { attachVmNetwork(input: $input) { cursor } }`,
);
const DETACH = graphql(
  `mutation DetachVmNetwork($input: DetachVmNetworkInput!) { detachVmNetwork(input: $input) { cursor } }`,
);

type VmWithNetworks = {
  id: string;
  name: string;
  status: string;
  networks: readonly string[];
  networkAddresses: readonly { network: string; networkId: string; address: string | null; mac: string }[];
  pendingRestart: { missing: readonly string[] } | null;
};

export function VmNetworks({
  vm,
  live,
  refresh,
}: {
  vm: VmWithNetworks;
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const detach = useAct(DETACH, refresh);
  const cards = new Map(vm.networkAddresses.map((card) => [card.network, card]));
  return (
    <Panel title="Networks" live={live} right={<Attach vm={vm} done={refresh} />}>
      {vm.networks.length === 0 ? (
        <Empty title="It names no network">It is on the usual one of its hypervisor, if there is one.</Empty>
      ) : (
        <section className="scroll-x" tabIndex={0} aria-label="Networks of it">
          <table className="plain">
            <thead>
              <tr>
                <th>Network</th>
                <th>Address</th>
                <th>Card</th>
                <th aria-label="Actions" />
              </tr>
            </thead>
            <tbody>
              {vm.networks.map((network) => {
                const card = cards.get(network);
                const last = vm.networks.length === 1;
                return (
                  <tr key={network}>
                    <td>
                      {card ? <KeyLink id={card.networkId} name={network} /> : network}
                      {vm.pendingRestart?.missing.includes(network) && (
                        <div style={{ color: 'var(--warn)' }}>from its next start on</div>
                      )}
                    </td>
                    <td className="mono">
                      {card?.address ?? <span className="dim">{card ? 'not the cluster’s to give' : 'not known'}</span>}
                    </td>
                    <td className="mono">{card?.mac ?? <span className="dim">its hypervisor’s</span>}</td>
                    <td>
                      <ConfirmButton
                        act={detach}
                        input={{ vm: vm.id, network }}
                        done={`${vm.name} is not on ${network} any more.`}
                        title={`Take ${vm.name} off ${network}?`}
                        consequence={
                          last
                            ? 'It is its only network, without which it would get its hypervisor’s usual one: this is refused.'
                            : `What it does over it ends${vm.status === 'RUNNING' ? ' at once' : ''}. ${card?.address ? `${card.address} is free for others again.` : ''}`
                        }
                        confirm="Take it off"
                        leftSection={<Unplug size={14} />}
                      >
                        Take off
                      </ConfirmButton>
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </section>
      )}
    </Panel>
  );
}

const OTHER = 'other';

function Attach({ vm, done }: { vm: VmWithNetworks; done: () => void }) {
  const networks = useAll(
    NETWORKS,
    {},
    (data) => data.networks,
    (event) => event.kind.startsWith('Network'),
    { page: FLEET_PAGE },
  );
  const [chosen, setChosen] = useState<string>();
  const [other, setOther] = useState('');
  const act = useAct(ATTACH, done);
  const free = networks.rows.filter(({ name }) => !vm.networks.includes(name));
  const picked = chosen ?? free[0]?.name ?? OTHER;
  const network = picked === OTHER ? other.trim() : picked;
  return (
    <FormButton
      label="Put it on one"
      icon={<Cable size={14} />}
      title={`Put ${vm.name} on a network`}
      act={act}
      input={{ vm: vm.id, network }}
      done={`${vm.name} is on ${network}.`}
      submit="Put it on"
      ready={network !== ''}
      reset={() => {
        setChosen(undefined);
        setOther('');
      }}
      note={
        <>
          {vm.status === 'RUNNING' ? 'Its guest has the card at once' : 'It has the card when it is started'}; an
          address that the cluster gives to a guest that was booted before has to be set in it.
          {vm.networks.length === 0 && ' It takes the place of its hypervisor’s usual network.'}
        </>
      }
    >
      <NativeSelect
        label="Network"
        value={picked}
        onChange={(event) => setChosen(event.currentTarget.value)}
        error={picked !== OTHER && wrong(act, 'network')}
        data={[
          ...free.map(({ name, kind, cidr }) => ({
            value: name,
            label: `${name} (${kindLabel(kind)}${cidr ? `, ${cidr}` : ''})`,
          })),
          { value: OTHER, label: 'one that is not the cluster’s…' },
        ]}
      />
      {picked === OTHER && (
        <TextField
          act={act}
          field="network"
          label="Its name"
          description="bridge:NAME of its host, or one of its hypervisor’s own"
          value={other}
          change={setOther}
          required
        />
      )}
    </FormButton>
  );
}
