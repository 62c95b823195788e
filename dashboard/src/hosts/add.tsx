// Making a host known to the cluster.
import { Group, NumberInput } from '@mantine/core';
import { Plus } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { useAct } from '../ui/act';
import { FormButton, NameField, TextField } from '../ui/form';

const REGISTER = graphql(
  `mutation RegisterHost($input: RegisterHostInput!) { registerHost(input: $input) { host { id } cursor } }`,
);

export function RegisterHost({ done }: { done: () => void }) {
  const [name, setName] = useState('');
  const [uri, setUri] = useState('qemu:///system');
  const [cpu, setCpu] = useState<number | string>(4);
  const [memory, setMemory] = useState<number | string>(1);
  const [underlay, setUnderlay] = useState('');
  const act = useAct(REGISTER, done);
  const overcommit = (value: number | string) => (typeof value === 'number' ? value : undefined);
  return (
    <FormButton
      label="Add a host"
      icon={<Plus size={14} />}
      title="Add a host"
      act={act}
      input={{
        name: name.trim(),
        uri: uri.trim(),
        cpuOvercommit: overcommit(cpu),
        memoryOvercommit: overcommit(memory),
        underlay: underlay.trim() || undefined,
      }}
      done={`${name.trim()} is known; its state says how connecting to it goes.`}
      submit="Add"
      ready={name.trim() !== '' && uri.trim() !== ''}
      reset={() => setName('')}
      note="VMs may be placed on it as soon as its hypervisor answers."
    >
      <NameField act={act} value={name} change={setName} />
      <TextField
        act={act}
        field="uri"
        label="Address of its hypervisor"
        description="qemu:///system, another of libvirt’s, or simulated://NAME to try it. It is shown, so no password"
        value={uri}
        change={setUri}
        required
      />
      <Group grow align="flex-start">
        <NumberInput
          label="CPU overcommit"
          description="Promised per CPU"
          min={1}
          step={0.5}
          value={cpu}
          onChange={setCpu}
        />
        <NumberInput
          label="Memory overcommit"
          description="Promised per byte"
          min={1}
          step={0.1}
          value={memory}
          onChange={setMemory}
        />
      </Group>
      <TextField
        act={act}
        field="underlay"
        label="Its address for overlays"
        description="An IP address where the other hosts reach it; without one no overlay network is on it"
        value={underlay}
        change={setUnderlay}
      />
    </FormButton>
  );
}
