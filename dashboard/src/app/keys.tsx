import { Kbd, Modal, Text } from '@mantine/core';
import { SCREENS } from './shell';

export default function Keys({ close }: { close: () => void }) {
  const keys: [string[], string][] = [
    [['/'], 'Search for a task, agent, swarm or screen'],
    [['?'], 'These keys'],
    [['Esc'], 'Close what is open'],
    ...SCREENS.map(({ key, label }): [string[], string] => [['g', key], label]),
  ];
  return (
    <Modal opened onClose={close} title="Keys">
      <table className="plain">
        <tbody>
          {keys.map(([strokes, what]) => (
            <tr key={what}>
              <td style={{ whiteSpace: 'nowrap' }}>
                {strokes.map((stroke, index) => (
                  <span key={stroke}>
                    {index > 0 && ' then '}
                    <Kbd>{stroke}</Kbd>
                  </span>
                ))}
              </td>
              <td>{what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <Text size="sm" c="dimmed" mt="sm">
        Times are local; rest on one for UTC. A dot that pulses is work under way.
      </Text>
    </Modal>
  );
}
