#pragma once
#include <mujoco/mujoco.h>

#include <memory>
#include <string>

namespace lram::envs {

/// The MJCF file `name` of dm_control's suite, compiled: once per process and shared, so it is
/// never to be edited. The XML lies in the program. MuJoCo's warnings become log lines and its
/// errors lram::Error from here on. Throws Error(kInternal) with MuJoCo's words.
std::shared_ptr<const mjModel> suite_model(const std::string& name);

/// A copy that its owner may edit.
std::shared_ptr<mjModel> copy_model(const mjModel& model);

struct DataDeleter {
  void operator()(mjData* data) const { mj_deleteData(data); }
};
using DataPtr = std::unique_ptr<mjData, DataDeleter>;

/// Throws Error(kResource) when memory runs out.
DataPtr make_data(const mjModel& model);

/// Id of a named element. Throws Error(kInternal) where the model has none of that name.
int id_of(const mjModel& model, mjtObj type, const char* name);
/// Where the values of a named sensor begin in mjData::sensordata.
int sensor_address(const mjModel& model, const char* name);
/// Where a named joint begins in mjData::qpos.
int qpos_address(const mjModel& model, const char* joint);

}  // namespace lram::envs
