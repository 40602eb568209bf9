#include "envs/mujoco/model.h"

#include <cstdio>
#include <map>
#include <mutex>

#include "lram/core/embedded_file.h"
#include "lram/core/error.h"
#include "lram/core/log.h"

extern const lram::EmbeddedFile kSuiteFiles[];

namespace lram::envs {
namespace {
// By default MuJoCo writes MUJOCO_LOG.TXT into the working directory and, on errors, ends the
// process. Its own frames carry unwind tables, so an exception passes through them.
void install_handlers() {
  mju_user_warning = [](const char* text) { log_warning("mujoco: {}", text); };
  mju_user_error = [](const char* text) { throw_error(ErrorKind::kInternal, "mujoco: {}", text); };
}

// Nothing here renders, so textures become single pixels: painting the sky of a dm_control scene
// takes longer than all the rest, and every copy of the model would carry 11 MB of it.
void shrink_textures(mjSpec* spec) {
  for (mjsElement* at = mjs_firstElement(spec, mjOBJ_TEXTURE); at != nullptr;
       at = mjs_nextElement(spec, at)) {
    mjsTexture* texture = mjs_asTexture(at);
    texture->width = texture->height = 1;
  }
}

mjModel* compile(const std::string& name) {
  const auto vfs = std::make_unique<mjVFS>();
  mj_defaultVFS(vfs.get());
  for (const EmbeddedFile* file = kSuiteFiles; file->name != nullptr; ++file)
    mj_addBufferVFS(vfs.get(), file->name, file->bytes.data(),
                    static_cast<int>(file->bytes.size()));
  char problem[1000] = "";
  mjModel* model = nullptr;
  mjSpec* spec = mj_parseXML(name.c_str(), vfs.get(), problem, sizeof problem);
  if (spec != nullptr) {
    shrink_textures(spec);
    model = mj_compile(spec, vfs.get());
    if (model == nullptr) std::snprintf(problem, sizeof problem, "%s", mjs_getError(spec));
    mj_deleteSpec(spec);
  }
  mj_deleteVFS(vfs.get());
  if (model == nullptr) throw_error(ErrorKind::kInternal, "{}: mujoco: {}", name, problem);
  return model;
}
}  // namespace

std::shared_ptr<const mjModel> suite_model(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const mjModel>> models;
  const std::lock_guard lock(mutex);
  auto& model = models[name];
  if (model == nullptr) {
    install_handlers();
    model.reset(compile(name), [](mjModel* m) { mj_deleteModel(m); });
  }
  return model;
}

std::shared_ptr<mjModel> copy_model(const mjModel& model) {
  mjModel* copy = mj_copyModel(nullptr, &model);
  if (copy == nullptr) throw_error(ErrorKind::kResource, "no memory for a mujoco model");
  return {copy, [](mjModel* m) { mj_deleteModel(m); }};
}

DataPtr make_data(const mjModel& model) {
  DataPtr data(mj_makeData(&model));
  if (data == nullptr) throw_error(ErrorKind::kResource, "no memory for mujoco data");
  return data;
}

int id_of(const mjModel& model, mjtObj type, const char* name) {
  const int id = mj_name2id(&model, type, name);
  if (id < 0)
    throw_error(ErrorKind::kInternal, "mujoco model '{}' has no {} '{}'", model.names,
                mju_type2Str(type), name);
  return id;
}

int sensor_address(const mjModel& model, const char* name) {
  return model.sensor_adr[id_of(model, mjOBJ_SENSOR, name)];
}

int qpos_address(const mjModel& model, const char* joint) {
  return model.jnt_qposadr[id_of(model, mjOBJ_JOINT, joint)];
}
}  // namespace lram::envs
