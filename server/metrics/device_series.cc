#include "server/metrics/device_series.h"

namespace lorad {

DeviceSeries::DeviceSeries(prometheus::Registry* registry, const std::map<std::string, std::string>& labels)
    : steps_(prometheus::BuildCounter()
                 .Name("lorad_device_steps_total")
                 .Help("Steps on a device: a graph replayed or captured, or why neither")
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

void DeviceSeries::Observe(const DeviceStep& step) {
  if (step.how.empty()) return;
  steps_.Add({{"how", std::string(step.how)}}).Increment();
  graphs_.Add({}).Set(static_cast<double>(step.graphs));
  graph_bytes_.Add({}).Set(static_cast<double>(step.graph_bytes));
}

}  // namespace lorad
