// The Python module `_engine`: see server/engine.py for what each part promises.

#include <utility>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "batch.h"
#include "errors.h"
#include "library.h"
#include "model.h"
#include "runtime.h"

namespace py = pybind11;

namespace torchyard {
namespace {

Request request_of(const py::sequence& inputs) {
  Request request;
  for (const auto& input : inputs) {
    auto [datatype, shape, buffer] = input.cast<std::tuple<std::string, std::vector<int64_t>, py::object>>();
    request.emplace_back(std::move(datatype), std::move(shape), buffer);
  }
  return request;
}

std::vector<Output> forward(const Model& model, const py::sequence& inputs) {
  const std::vector<Request> requests{request_of(inputs)};
  const py::gil_scoped_release released;
  return std::move(answer_together(model, requests).outputs);
}

py::tuple forward_together(const Model& model, const py::sequence& requests) {
  std::vector<Request> held;
  for (const auto& each : requests) {
    held.push_back(request_of(each.cast<py::sequence>()));
  }
  Answered answered;
  {
    const py::gil_scoped_release released;
    answered = answer_together(model, held);
  }
  return py::make_tuple(std::move(answered.outputs), answered.input_ns, answered.infer_ns);
}

void fuse(Model& model, const py::sequence& inputs) {
  std::vector<c10::IValue> values;
  for (const auto& input : request_of(inputs)) {
    values.push_back(input.value());
  }
  const py::gil_scoped_release released;
  model.fuse(values);
}

py::tuple shape_of(const Output& output) {
  py::tuple shape(output.shape.size());
  for (size_t index = 0; index < output.shape.size(); ++index) {
    shape[index] = output.shape[index];
  }
  return shape;
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
      .def_property_readonly("shape", &torchyard::shape_of)
      .def_buffer(&torchyard::bytes_of);

  py::class_<Model>(m, "Model")
      .def_property_readonly("methods", &Model::methods)
      .def("forward", &torchyard::forward, py::arg("inputs"), py::pos_only())
      .def("forward_together", &torchyard::forward_together, py::arg("requests"), py::pos_only())
      .def("fuse", &torchyard::fuse, py::arg("inputs"), py::pos_only())
      .def("unfuse", &Model::unfuse);

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
  m.def("trim", &torchyard::trim, py::call_guard<py::gil_scoped_release>());
  m.def("torch_version", &torchyard::torch_version);
  m.def("operators", &torchyard::operators);
  m.def("upgraders", &torchyard::upgraders);
  m.def("classes", &torchyard::classes);
  m.def("archive_versions", &torchyard::archive_versions);
}
