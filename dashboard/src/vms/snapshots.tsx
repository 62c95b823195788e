// Snapshots of a VM: taking one, going back to one, removing one.
import { Group } from '@mantine/core';
import { Camera, History, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { FormButton, NameField } from '../ui/form';
import { Empty, Panel } from '../ui/shown';
import { Ago } from '../ui/time';

const TAKE = graphql(`mutation SnapshotVm($input: SnapshotVmInput!) { snapshotVm(input: $input) { cursor } }`);
const REVERT = graphql(`mutation RevertVm($input: RevertVmInput!) { revertVm(input: $input) { cursor } }`);
const REMOVE = graphql(
  `mutation RemoveVmSnapshot($input: RemoveVmSnapshotInput!) { removeVmSnapshot(input: $input) { cursor } }`,
);

export type Snapshot = { name: string; takenAt: string; withMemory: boolean };

export function Snapshots({
  vm,
  snapshots,
  live,
  refresh,
}: {
  vm: { id: string; name: string };
  snapshots: readonly Snapshot[];
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const revert = useAct(REVERT, refresh);
  const remove = useAct(REMOVE, refresh);
  return (
    <Panel title="Snapshots" live={live} right={<TakeSnapshot vm={vm} done={refresh} />}>
      {snapshots.length === 0 ? (
        <Empty title="It has no snapshots">One keeps its disks as they are and, while it runs, its memory.</Empty>
      ) : (
        <section className="scroll-x" tabIndex={0} aria-label="Snapshots">
          <table className="plain">
            <thead>
              <tr>
                <th>Name</th>
                <th>Taken</th>
                <th>Keeps</th>
                <th aria-label="Actions" />
              </tr>
            </thead>
            <tbody>
              {snapshots.map(({ name, takenAt, withMemory }) => (
                <tr key={name}>
                  <td>{name}</td>
                  <td style={{ whiteSpace: 'nowrap' }}>
                    <Ago at={takenAt} />
                  </td>
                  <td>{withMemory ? 'disks and memory' : 'disks'}</td>
                  <td>
                    <Group gap="xs" wrap="nowrap">
                      <ConfirmButton
                        act={revert}
                        input={{ vm: vm.id, name }}
                        done={`${vm.name} is as it was at ${name}.`}
                        title={`Take ${vm.name} back to ${name}?`}
                        consequence={`What it did since then is gone for good, on its disks as well. ${withMemory ? 'It then runs on from there.' : 'It is then off.'}`}
                        confirm="Revert"
                        leftSection={<History size={14} />}
                      >
                        Revert
                      </ConfirmButton>
                      <ConfirmButton
                        act={remove}
                        input={{ vm: vm.id, name }}
                        done={`The snapshot ${name} is removed.`}
                        title={`Remove the snapshot ${name}?`}
                        consequence="Nobody can go back to it any more. The VM stays as it is."
                        confirm="Remove"
                        leftSection={<Trash2 size={14} />}
                      >
                        Remove
                      </ConfirmButton>
                    </Group>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </Panel>
  );
}

function TakeSnapshot({ vm, done }: { vm: { id: string; name: string }; done: () => void }) {
  const [name, setName] = useState('');
  const act = useAct(TAKE, done);
  return (
    <FormButton
      label="Take one"
      icon={<Camera size={14} />}
      title={`Take a snapshot of ${vm.name}`}
      act={act}
      input={{ vm: vm.id, name: name.trim() }}
      done={`The snapshot ${name.trim()} is taken.`}
      submit="Take it"
      ready={name.trim() !== ''}
      reset={() => setName('')}
      note="If it runs, its guest stands still until its memory is written."
    >
      <NameField act={act} label="Snapshot’s name" among="among those of this VM" value={name} change={setName} />
    </FormButton>
  );
}
