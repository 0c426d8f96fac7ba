// The Python module `_http2`: see server/http2.py for what each part promises.

#include <memory>
#include <string>
#include <utility>

#include <pybind11/pybind11.h>

#include "session.h"

namespace py = pybind11;

PYBIND11_MODULE(_http2, m) {
  using torchyard::Session;

  m.doc() = "gRPC's HTTP/2 for Python, by nghttp2.";
  py::register_exception<torchyard::ProtocolError>(m, "ProtocolError");

  py::class_<Session>(m, "Session")
      .def(
          py::init([](uint32_t calls, size_t message, size_t messages, size_t headers, std::string encodings) {
            return std::make_unique<Session>(
                torchyard::Limits{calls, message, messages, headers}, std::move(encodings));
          }),
          py::kw_only(), py::arg("calls"), py::arg("message"), py::arg("messages"), py::arg("headers"),
          py::arg("encodings"))
      .def_property_readonly("busy", &Session::busy)
      .def_property_readonly("over", &Session::over)
      .def_property_readonly("held", &Session::held)
      .def_property_readonly("unsent", &Session::unsent)
      .def("received", &Session::received, py::arg("call"), py::pos_only())
      .def("receive", &Session::receive, py::arg("data"), py::pos_only())
      .def("outgoing", &Session::outgoing)
      .def(
          "send", &Session::send, py::arg("call"), py::arg("parts"), py::arg("compressed") = false,
          py::arg("encoding") = "")
      .def(
          "close", &Session::close, py::arg("call"), py::arg("status"), py::arg("details"), py::arg("http") = "200",
          py::pos_only())
      .def("answer", &Session::answer, py::arg("call"), py::arg("parts"), py::pos_only())
      .def("go_away", &Session::go_away, py::kw_only(), py::arg("at_once"));
}
