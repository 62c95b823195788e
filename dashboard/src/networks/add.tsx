// Making a network, and taking one out.
import { NativeSelect, NumberInput } from '@mantine/core';
import { Plus, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { many } from '../ui/figures';
import { FormButton, NameField, TextField, wrong } from '../ui/form';
import { KINDS, type NetworkKind } from './query';

const CREATE = graphql(
  `mutation CreateNetwork($input: CreateNetworkInput!) { createNetwork(input: $input) { network { id } cursor } }`,
);
const REMOVE = graphql(
  `mutation RemoveNetwork($input: RemoveNetworkInput!) { removeNetwork(input: $input) { cursor } }`,
);

export function CreateNetwork({ done }: { done: () => void }) {
  const [name, setName] = useState('');
  const [kind, setKind] = useState<NetworkKind>('OVERLAY');
  const [cidr, setCidr] = useState('');
  const [bridge, setBridge] = useState('');
  const [mtu, setMtu] = useState<number | string>('');
  const act = useAct(CREATE, done);
  const ranged = kind === 'OVERLAY' || kind === 'NAT';
  const ready =
    name.trim() !== '' && (kind !== 'NAT' || cidr.trim() !== '') && (kind !== 'BRIDGE' || bridge.trim() !== '');
  return (
    <FormButton
      label="Make a network"
      icon={<Plus size={14} />}
      title="Make a network"
      act={act}
      input={{
        name: name.trim(),
        kind,
        cidr: (ranged && cidr.trim()) || undefined,
        bridge: (kind === 'BRIDGE' && bridge.trim()) || undefined,
        mtu: kind === 'OVERLAY' && typeof mtu === 'number' ? mtu : undefined,
      }}
      done={`VMs can be put on ${name.trim()}.`}
      submit="Make it"
      ready={ready}
      reset={() => {
        setName('');
        setCidr('');
        setBridge('');
        setMtu('');
      }}
      note="VMs name it from then on. A host makes it just before it runs a VM that does, and that VM says so if it cannot."
    >
      <NameField act={act} value={name} change={setName} />
      <NativeSelect
        label="Kind"
        description={`On it: ${KINDS.find((each) => each.kind === kind)?.what}`}
        value={kind}
        onChange={(event) => setKind(event.currentTarget.value as NetworkKind)}
        data={KINDS.map((each) => ({ value: each.kind, label: each.label }))}
      />
      {ranged && (
        <TextField
          act={act}
          field="cidr"
          label="Range"
          description={
            kind === 'NAT'
              ? 'Such as 10.8.0.0/24, the same on every host; each host gives its addresses out'
              : 'Such as 10.7.0.0/24: each VM is given an address. Without one the guests see to that themselves'
          }
          value={cidr}
          change={setCidr}
          required={kind === 'NAT'}
        />
      )}
      {kind === 'OVERLAY' && (
        <NumberInput
          label="MTU"
          description="1450 if none is given, which fits into Ethernet’s 1500"
          min={576}
          value={mtu}
          onChange={setMtu}
          error={wrong(act, 'mtu')}
        />
      )}
      {kind === 'BRIDGE' && (
        <TextField
          act={act}
          field="bridge"
          label="Bridge"
          description="Its name on each of the hosts, such as br0"
          value={bridge}
          change={setBridge}
          required
        />
      )}
    </FormButton>
  );
}

export function RemoveNetwork({
  network,
  done,
}: {
  network: { id: string; name: string; vmCount: number };
  done: () => void;
}) {
  const remove = useAct(REMOVE, done);
  return (
    <ConfirmButton
      act={remove}
      input={{ network: network.id }}
      done={`${network.name} is removed.`}
      title={`Remove the network ${network.name}?`}
      consequence={
        network.vmCount === 0
          ? 'No VM can be put on it any more. Hosts take down what they made for it, and its number is not used again.'
          : `${many(network.vmCount, 'VM')} ${network.vmCount === 1 ? 'is' : 'are'} on it: this is refused.`
      }
      confirm="Remove"
      leftSection={<Trash2 size={14} />}
    >
      Remove
    </ConfirmButton>
  );
}
