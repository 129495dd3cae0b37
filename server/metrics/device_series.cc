#include "server/metrics/device_series.h"

namespace lorad {

DeviceSeries::DeviceSeries(prometheus::Registry* registry, const std::map<std::string, std::string>& labels)
    : steps_(prometheus::BuildCounter()
                 .Name("lorad_device_steps_total")
                 .Help("Steps on a device: a graph replayed or captured, or why neither")
                 .Labels(labels)
                 .Register(*registry)),
      steps_behind_(prometheus::BuildCounter()
                        .Name("lorad_device_steps_behind_total")
                        .Help("Steps that were planned and launched while the one before them ran")
                        .Labels(labels)
                        .Register(*registry)),
      graphs_(prometheus::BuildGauge()
                  .Name("lorad_device_graphs")
                  .Help("Captured steps that are held")
                  .Labels(labels)
                  .Register(*registry)),
      graph_bytes_(prometheus::BuildGauge()
                       .Name("lorad_device_graph_bytes")
                       .Help("Memory of the device that they have taken")
                       .Labels(labels)
                       .Register(*registry)) {}

void DeviceSeries::Observe(const StepStats& step) {
  if (step.behind) steps_behind_.Add({}).Increment();
  const DeviceStep& device = step.device;
  if (device.how.empty()) return;
  steps_.Add({{"how", std::string(device.how)}}).Increment();
  graphs_.Add({}).Set(static_cast<double>(device.graphs));
  graph_bytes_.Add({}).Set(static_cast<double>(device.graph_bytes));
}

}  // namespace lorad
