// What a person can do to an agent; only what its state allows is offered.
import { Button, Checkbox, Menu } from '@mantine/core';
import { useNavigate } from '@tanstack/react-router';
import { ChevronDown, Pause, Play, RotateCcw, Square, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ActButton, ConfirmButton, useAct } from '../ui/act';

const START = graphql(`mutation StartAgent($input: StartAgentInput!) { startAgent(input: $input) { cursor } }`);
const STOP = graphql(`mutation StopAgent($input: StopAgentInput!) { stopAgent(input: $input) { cursor } }`);
const PAUSE = graphql(`mutation PauseAgent($input: PauseAgentInput!) { pauseAgent(input: $input) { cursor } }`);
const RESUME = graphql(`mutation ResumeAgent($input: ResumeAgentInput!) { resumeAgent(input: $input) { cursor } }`);
const RESTART = graphql(`mutation RestartAgent($input: RestartAgentInput!) { restartAgent(input: $input) { cursor } }`);
const REMOVE = graphql(`mutation RemoveAgent($input: RemoveAgentInput!) { removeAgent(input: $input) { cursor } }`);

export function AgentActions({
  agent,
  refresh,
}: {
  agent: { id: string; name: string; status: string; running: number };
  refresh: () => void;
}) {
  const navigate = useNavigate();
  const start = useAct(START, refresh);
  const stop = useAct(STOP, refresh);
  const pause = useAct(PAUSE, refresh);
  const resume = useAct(RESUME, refresh);
  const restart = useAct(RESTART, refresh);
  const remove = useAct(REMOVE, () => void navigate({ to: '/agents' }));
  const [force, setForce] = useState(false);
  const { id, name, status, running } = agent;
  const lives = ['STARTING', 'IDLE', 'BUSY', 'PAUSED'].includes(status);
  const tasks = running === 1 ? 'the task it runs' : `the ${running} tasks it runs`;
  return (
    <>
      {!lives && status !== 'STOPPING' && (
        <ActButton act={start} input={{ agent: id }} done={`${name} is started.`} leftSection={<Play size={14} />}>
          Start
        </ActButton>
      )}
      {(status === 'IDLE' || status === 'BUSY') && (
        <Menu position="bottom-end" width={270}>
          <Menu.Target>
            <Button
              size="xs"
              variant="default"
              leftSection={<Pause size={14} />}
              rightSection={<ChevronDown size={14} />}
              loading={pause.running}
            >
              Pause
            </Button>
          </Menu.Target>
          <Menu.Dropdown>
            <Menu.Item onClick={() => void pause.run({ agent: id, mode: 'NEXT_STEP' }, `${name} takes no new task.`)}>
              After what it runs: takes no new task
            </Menu.Item>
            <Menu.Item onClick={() => void pause.run({ agent: id, mode: 'FREEZE' }, `${name} is frozen.`)}>
              Now: freezes its processes
            </Menu.Item>
          </Menu.Dropdown>
        </Menu>
      )}
      {status === 'PAUSED' && (
        <ActButton act={resume} input={{ agent: id }} done={`${name} goes on.`} leftSection={<Play size={14} />}>
          Resume
        </ActButton>
      )}
      {lives && (
        <>
          <ConfirmButton
            act={restart}
            input={{ agent: id }}
            done={`${name} is restarted.`}
            title={`Restart ${name}?`}
            consequence={
              running > 0
                ? `It begins a new life: ${tasks} is tried again, here or on another agent.`
                : 'It begins a new life. It runs nothing now.'
            }
            confirm="Restart"
            leftSection={<RotateCcw size={14} />}
          >
            Restart
          </ConfirmButton>
          <ConfirmButton
            act={stop}
            input={{ agent: id, mode: 'GRACEFUL' }}
            done={`${name} is stopped.`}
            title={`Stop ${name}?`}
            consequence={`It is asked to end, then made to, within its grace period. ${running > 0 ? `What becomes of ${tasks}: it goes back to the queue.` : 'It runs nothing now.'} It stays stopped until somebody starts it.`}
            confirm="Stop"
            leftSection={<Square size={14} />}
          >
            Stop
          </ConfirmButton>
        </>
      )}
      <ConfirmButton
        act={remove}
        input={{ agent: id, force }}
        done={`${name} is removed.`}
        title={`Remove ${name}?`}
        consequence="It is gone for good, with its settings. Its past attempts stay with their tasks."
        confirm="Remove"
        leftSection={<Trash2 size={14} />}
        more={
          running > 0 ? (
            <Checkbox
              label={`Even though it is at work: ${tasks} goes back to the queue`}
              checked={force}
              onChange={(event) => setForce(event.currentTarget.checked)}
            />
          ) : undefined
        }
      >
        Remove
      </ConfirmButton>
      {pause.problem && (
        <span role="alert" style={{ color: 'var(--bad)' }}>
          {pause.problem.message}
        </span>
      )}
    </>
  );
}
