// Making a VM of a backup, to keep it or only to see whether it comes up.
import { Checkbox, NativeSelect } from '@mantine/core';
import { useNavigate } from '@tanstack/react-router';
import { ArchiveRestore, Stethoscope } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { FormButton, NameField, wrong } from '../ui/form';

const RESTORE = graphql(`
  mutation RestoreVm($input: RestoreVmInput!) { restoreVm(input: $input) { vm { id } cursor } }
`);
const DRILL = graphql(
  `mutation DrillVmBackup($input: DrillVmBackupInput!) { drillVmBackup(input: $input) { cursor } }`,
);

/** Hosts by name, where one may be chosen. */
export function HostSelect({
  hosts,
  value,
  change,
  description,
  at,
}: {
  hosts: ReadonlyMap<string, string>;
  value: string;
  change: (host: string) => void;
  description?: string;
  at?: boolean;
}) {
  const sorted = [...hosts].sort(([, one], [, two]) => one.localeCompare(two));
  return (
    <NativeSelect
      label="On"
      description={description}
      value={value}
      onChange={(event) => change(event.currentTarget.value)}
      error={at}
      data={[{ value: '', label: 'the best host' }, ...sorted.map(([id, label]) => ({ value: id, label }))]}
    />
  );
}

export function Restore({ from, vmName, hosts }: { from: string; vmName: string; hosts: ReadonlyMap<string, string> }) {
  const navigate = useNavigate();
  const [name, setName] = useState('');
  const [host, setHost] = useState('');
  const [start, setStart] = useState(true);
  const act = useAct(RESTORE, ({ restoreVm: { vm } }) => void navigate({ to: '/vms/$vm', params: { vm: vm.id } }));
  return (
    <FormButton
      label="Restore"
      icon={<ArchiveRestore size={13} />}
      small
      title={`Make a VM of this backup of ${vmName}`}
      act={act}
      input={{ from, name: name.trim(), host: host || undefined, start }}
      done={`${name.trim()} is being made.`}
      submit="Restore"
      ready={name.trim() !== ''}
      reset={() => setName(`${vmName}-restored`)}
      note={`It is another VM, with a name and addresses of its own; ${vmName} stays as it is. Every file is read: a copy that is not what was written is refused, and nothing is started.`}
    >
      <NameField act={act} label="Name of the new VM" value={name} change={setName} />
      <HostSelect hosts={hosts} value={host} change={setHost} at={wrong(act, 'host')} />
      <Checkbox label="Start it" checked={start} onChange={(event) => setStart(event.currentTarget.checked)} />
    </FormButton>
  );
}

export function Drill({ from, done }: { from: string; done: () => void }) {
  const act = useAct(DRILL, done);
  return (
    <ConfirmButton
      act={act}
      input={{ from }}
      done="The drill has begun; what comes of it is written beside the backup."
      title="Try whether it comes up?"
      consequence="A VM is made of it without any network and started. When its guest has answered, or has not within five minutes, it is removed again, and what came of it is written beside the backup. It takes the room that the VM had."
      confirm="Try it"
      size="compact-xs"
      leftSection={<Stethoscope size={13} />}
    >
      Drill
    </ConfirmButton>
  );
}
