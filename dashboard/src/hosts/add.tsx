// Making a host known to the cluster.
import { Button, Group, Modal, NumberInput, Stack, Text, TextInput } from '@mantine/core';
import { Plus } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { useAct } from '../ui/act';
import { ProblemNote } from '../ui/shown';

const REGISTER = graphql(
  `mutation RegisterHost($input: RegisterHostInput!) { registerHost(input: $input) { host { id } cursor } }`,
);

export function RegisterHost({ done }: { done: () => void }) {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState('');
  const [uri, setUri] = useState('qemu:///system');
  const [cpu, setCpu] = useState<number | string>(4);
  const [memory, setMemory] = useState<number | string>(1);
  const act = useAct(REGISTER, done);
  const close = () => {
    setOpen(false);
    setName('');
    act.clear();
  };
  const overcommit = (value: number | string) => (typeof value === 'number' ? value : undefined);
  const add = async () => {
    const input = {
      name: name.trim(),
      uri: uri.trim(),
      cpuOvercommit: overcommit(cpu),
      memoryOvercommit: overcommit(memory),
    };
    if (await act.run(input, `${input.name} is known; its state says how connecting to it goes.`)) close();
  };
  const field = act.problem?.code === 'INVALID' ? act.problem.field : undefined;
  return (
    <>
      <Button size="xs" variant="default" leftSection={<Plus size={14} />} onClick={() => setOpen(true)}>
        Add a host
      </Button>
      <Modal opened={open} onClose={close} title="Add a host">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void add();
          }}
        >
          <Stack>
            <TextInput
              label="Name"
              description="Unique in the cluster"
              value={name}
              onChange={(event) => setName(event.currentTarget.value)}
              error={field === 'name'}
              data-autofocus
              required
            />
            <TextInput
              label="Address of its hypervisor"
              description="qemu:///system, another of libvirt’s, or simulated://NAME to try it. It is shown, so no password"
              value={uri}
              onChange={(event) => setUri(event.currentTarget.value)}
              error={field === 'uri'}
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
            <Text size="sm" c="dimmed">
              VMs may be placed on it as soon as its hypervisor answers.
            </Text>
            {act.problem && <ProblemNote problem={act.problem} />}
            <Group justify="flex-end">
              <Button variant="default" onClick={close}>
                Not now
              </Button>
              <Button type="submit" loading={act.running} disabled={name.trim() === '' || uri.trim() === ''}>
                Add
              </Button>
            </Group>
          </Stack>
        </form>
      </Modal>
    </>
  );
}
