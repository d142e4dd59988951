{{/* Labels of every object. Call with (list . "controller"). */}}
{{- define "magnetite.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "magnetite.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: magnetite
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the Pods of a component. Never to be changed: a selector is immutable. */}}
{{- define "magnetite.selector" -}}
app.kubernetes.io/name: magnetite
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of a component's Pods: none that changes with the chart, or each new chart would restart them. */}}
{{- define "magnetite.podLabels" -}}
{{ include "magnetite.selector" . }}
app.kubernetes.io/part-of: magnetite
{{- with (index (index . 0).Values (index . 1)).podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image, by digest where there is one. Call with (list . .Values.controller.image). */}}
{{- define "magnetite.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The ports that machines need, for the Pod and for whoever opens them. Call with .Values.bootserver. */}}
{{- define "magnetite.bootPorts" -}}
{{- $dhcp := .dhcp | default "off" -}}
{{- $dhcpv6 := .dhcpv6 | default "off" -}}
{{- if has $dhcp (list "proxy" "reservations") }}
- name: dhcp
  containerPort: 67
  protocol: UDP
{{- end }}
{{- if or (ne $dhcp "off") (ne $dhcpv6 "off") }}
- name: pxe
  containerPort: 4011
  protocol: UDP
{{- end }}
{{- if ne $dhcpv6 "off" }}
- name: dhcpv6
  containerPort: 547
  protocol: UDP
{{- end }}
- name: tftp
  containerPort: 69
  protocol: UDP
- name: http
  containerPort: {{ .httpPort }}
- name: https
  containerPort: {{ .httpsPort }}
{{- if or .tls.secretName .tls.ownCa }}
- name: boot-tls
  containerPort: {{ .tls.port }}
{{- end }}
{{- end }}
