// Scaling a swarm, and taking it away.
import { Button, Checkbox, Group, Modal, NumberInput, Stack, Text } from '@mantine/core';
import { useNavigate } from '@tanstack/react-router';
import { Scaling, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { ProblemNote } from '../ui/shown';

const SCALE = graphql(`mutation ScaleSwarm($input: ScaleSwarmInput!) { scaleSwarm(input: $input) { cursor } }`);
const REMOVE = graphql(`mutation RemoveSwarm($input: RemoveSwarmInput!) { removeSwarm(input: $input) { cursor } }`);

type Swarm = { id: string; name: string; agentCount: number };

export function SwarmActions({ swarm, refresh }: { swarm: Swarm; refresh: () => void }) {
  const navigate = useNavigate();
  const [scaling, setScaling] = useState(false);
  const [force, setForce] = useState(false);
  const remove = useAct(REMOVE, () => void navigate({ to: '/swarms' }));
  return (
    <>
      <Button size="xs" variant="default" leftSection={<Scaling size={15} />} onClick={() => setScaling(true)}>
        Scale
      </Button>
      <ConfirmButton
        act={remove}
        input={{ swarm: swarm.id, force }}
        done={`${swarm.name} is removed.`}
        title={`Remove ${swarm.name}?`}
        consequence="It is gone for good. While it has agents or tasks this is refused, unless you say so below."
        confirm="Remove"
        leftSection={<Trash2 size={15} />}
        more={
          <Checkbox
            label="Also while it has agents or tasks: tasks are cancelled, agents removed"
            checked={force}
            onChange={(event) => setForce(event.currentTarget.checked)}
          />
        }
      >
        Remove
      </ConfirmButton>
      {scaling && <Scale swarm={swarm} refresh={refresh} close={() => setScaling(false)} />}
    </>
  );
}

function Scale({ swarm, refresh, close }: { swarm: Swarm; refresh: () => void; close: () => void }) {
  const act = useAct(SCALE, refresh);
  const [agents, setAgents] = useState<number | string>(swarm.agentCount);
  const change = typeof agents === 'number' ? agents - swarm.agentCount : 0;
  return (
    <Modal opened onClose={close} title={`Scale ${swarm.name}`}>
      <Stack>
        <NumberInput
          label="Agents it shall have"
          min={0}
          max={100_000}
          value={agents}
          onChange={setAgents}
          data-autofocus
        />
        <Text size="sm">
          {change > 0 && `${change} more are made, as copies of its last agent. This can take a while.`}
          {change < 0 && `Its last ${-change} agents are removed; what they run goes back to the queue.`}
          {change === 0 && `It has ${swarm.agentCount} now.`}
        </Text>
        {act.running && (
          <Text size="sm" c="dimmed" role="status">
            Scaling; agents appear as they are ready.
          </Text>
        )}
        {act.problem && <ProblemNote problem={act.problem} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Keep as it is
          </Button>
          <Button
            loading={act.running}
            disabled={change === 0}
            onClick={async () =>
              typeof agents === 'number' &&
              (await act.run({ swarm: swarm.id, agents }, `${swarm.name} has ${agents} agents.`)) &&
              close()
            }
          >
            Scale
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
