// What a person can do to a VM; only what its state allows is offered, each with what comes of it.
import { Checkbox } from '@mantine/core';
import { useNavigate } from '@tanstack/react-router';
import { Pause, Play, RotateCcw, Square, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ActButton, ConfirmButton, useAct } from '../ui/act';
import { duration } from '../ui/time';

const START = graphql(`mutation StartVm($input: StartVmInput!) { startVm(input: $input) { cursor } }`);
const STOP = graphql(`mutation StopVm($input: StopVmInput!) { stopVm(input: $input) { cursor } }`);
const REBOOT = graphql(`mutation RebootVm($input: RebootVmInput!) { rebootVm(input: $input) { cursor } }`);
const PAUSE = graphql(`mutation PauseVm($input: PauseVmInput!) { pauseVm(input: $input) { cursor } }`);
const RESUME = graphql(`mutation ResumeVm($input: ResumeVmInput!) { resumeVm(input: $input) { cursor } }`);
const REMOVE = graphql(`mutation RemoveVm($input: RemoveVmInput!) { removeVm(input: $input) { cursor } }`);

export function VmActions({
  vm,
  refresh,
}: {
  vm: { id: string; name: string; status: string; stopGraceMs: number };
  refresh: () => void;
}) {
  const navigate = useNavigate();
  const start = useAct(START, refresh);
  const stop = useAct(STOP, refresh);
  const reboot = useAct(REBOOT, refresh);
  const pause = useAct(PAUSE, refresh);
  const resume = useAct(RESUME, refresh);
  const remove = useAct(REMOVE, () => void navigate({ to: '/hosts' }));
  const [plug, setPlug] = useState(false);
  const [force, setForce] = useState(false);
  const { id, name, status, stopGraceMs } = vm;
  const off = ['DEFINED', 'STOPPED', 'FAILED'].includes(status);
  const on = status === 'RUNNING';
  const lives = on || status === 'PAUSED' || status === 'STOPPING' || status === 'STARTING';
  return (
    <>
      {off && (
        <ActButton act={start} input={{ vm: id }} done={`${name} runs.`} leftSection={<Play size={14} />}>
          Start
        </ActButton>
      )}
      {on && (
        <ConfirmButton
          act={pause}
          input={{ vm: id }}
          done={`${name} is paused.`}
          title={`Pause ${name}?`}
          consequence="Its CPUs stand still until it is resumed: what it serves does not answer, and its memory stays taken."
          confirm="Pause"
          leftSection={<Pause size={14} />}
        >
          Pause
        </ConfirmButton>
      )}
      {status === 'PAUSED' && (
        <ActButton act={resume} input={{ vm: id }} done={`${name} goes on.`} leftSection={<Play size={14} />}>
          Resume
        </ActButton>
      )}
      {on && (
        <ConfirmButton
          act={reboot}
          input={{ vm: id }}
          done={`${name} was rebooted.`}
          title={`Reboot ${name}?`}
          consequence="Its guest is asked to begin anew: what runs in it ends, and what it has not written is gone."
          confirm="Reboot"
          leftSection={<RotateCcw size={14} />}
        >
          Reboot
        </ConfirmButton>
      )}
      {lives && (
        <ConfirmButton
          act={stop}
          input={{ vm: id, force: plug }}
          done={`${name} is stopped.`}
          title={`Stop ${name}?`}
          consequence={
            plug
              ? 'The plug is pulled at once: what its guest has not written to its disks is lost.'
              : `Its power button is pressed; if it is not off within ${duration(stopGraceMs)}, the plug is pulled. It stays stopped until somebody starts it, and keeps its disks and its place on the host.`
          }
          confirm={plug ? 'Pull the plug' : 'Stop'}
          leftSection={<Square size={14} />}
          more={
            <Checkbox
              label="Pull the plug at once"
              checked={plug}
              onChange={(event) => setPlug(event.currentTarget.checked)}
            />
          }
        >
          Stop
        </ConfirmButton>
      )}
      <ConfirmButton
        act={remove}
        input={{ vm: id, force }}
        done={`${name} is removed.`}
        title={`Remove ${name}?`}
        consequence="It is gone for good, with its disks and all that is on them. What was reserved for it on its host is free again."
        confirm="Remove"
        leftSection={<Trash2 size={14} />}
        more={
          lives || status === 'FAILED' ? (
            <Checkbox
              label={
                lives
                  ? 'Even though it runs: the plug is pulled first'
                  : 'Even if a host that cannot be asked may have it: what runs there is yours to end'
              }
              checked={force}
              onChange={(event) => setForce(event.currentTarget.checked)}
            />
          ) : undefined
        }
      >
        Remove
      </ConfirmButton>
    </>
  );
}
