// The Python module `_engine`: see server/engine.py for what each part promises.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "errors.h"
#include "input.h"
#include "library.h"
#include "model.h"
#include "runtime.h"

namespace py = pybind11;

namespace torchyard {
namespace {

std::vector<c10::IValue> values_over(const py::sequence& inputs) {
  std::vector<c10::IValue> values;
  for (const auto& input : inputs) {
    const auto [datatype, shape, buffer] = input.cast<std::tuple<std::string, std::vector<int64_t>, py::object>>();
    values.push_back(value_over(datatype, shape, buffer));
  }
  return values;
}

std::vector<Output> forward(const Model& model, const py::sequence& inputs) {
  const auto values = values_over(inputs);
  const py::gil_scoped_release released;
  return model.forward(values);
}

py::buffer_info bytes_of(const Output& output) {
  const auto size = static_cast<py::ssize_t>(output.content.nbytes());
  return {output.content.data_ptr(), 1, "B", 1, {size}, {py::ssize_t{1}}, true};
}

}  // namespace
}  // namespace torchyard

PYBIND11_MODULE(_engine, m) {
  using torchyard::Model;
  using torchyard::Output;

  m.doc() = "TorchScript for Python without Python's torch.";
  py::register_exception<torchyard::LoadError>(m, "LoadError");
  py::register_exception<torchyard::InputError>(m, "InputError");
  py::register_exception<torchyard::ModelError>(m, "ModelError");

  py::class_<Output>(m, "Output", py::buffer_protocol())
      .def_readonly("name", &Output::name)
      .def_readonly("datatype", &Output::datatype)
      .def_property_readonly("shape", [](const Output& output) { return py::tuple(py::cast(output.shape)); })
      .def_buffer(&torchyard::bytes_of);

  py::class_<Model>(m, "Model")
      .def_property_readonly("methods", &Model::methods)
      .def("forward", &torchyard::forward, py::arg("inputs"), py::pos_only());

  m.def(
      "load",
      [](const std::string& path, bool optimize) { return Model(path, optimize); },
      py::arg("path"),
      py::kw_only(),
      py::arg("optimize"),
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "load_library", &torchyard::load_library, py::arg("path"), py::pos_only(),
      py::call_guard<py::gil_scoped_release>());
  m.def("set_threads", &torchyard::set_threads, py::arg("count"), py::pos_only());
  m.def("threads", &torchyard::threads);
  m.def("torch_version", &torchyard::torch_version);
  m.def("operators", &torchyard::operators);
  m.def("classes", &torchyard::classes);
  m.def("archive_versions", &torchyard::archive_versions);
}
