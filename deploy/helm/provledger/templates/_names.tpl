{{/* Names, labels, images: everything that is the same for all services. */}}

{{- define "provledger.fullname" -}}
{{- if contains "provledger" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-provledger" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of a component's objects; (dict "root" $ "name" "keys"). */}}
{{- define "provledger.name" -}}
{{ include "provledger.fullname" .root }}-{{ .name }}
{{- end -}}

{{- define "provledger.selector" -}}
app.kubernetes.io/name: provledger
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "provledger.labels" -}}
{{ include "provledger.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "provledger.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "provledger.serviceAccount" -}}
{{- $values := index .root.Values .name -}}
{{ $values.serviceAccount.name | default (include "provledger.name" (dict "root" .root "name" (kebabcase .name))) }}
{{- end -}}

{{/* Name in the certificate of a service. */}}
{{- define "provledger.principal" -}}
{{- $values := index .root.Values .name -}}
{{ $values.principal | default (include "provledger.name" .) }}
{{- end -}}

{{- define "provledger.address" -}}
{{- $values := index .root.Values .name -}}
{{ include "provledger.name" . }}:{{ $values.port }}
{{- end -}}

{{/* The components that run, in the order in which they need each other. */}}
{{- define "provledger.components" -}}
keys witness anchor ledger{{ if .Values.gateway.enabled }} gateway{{ end }}{{ if .Values.notary.enabled }} notary{{ end }}
{{- end -}}

{{/* The first keys, by purpose: whether one of them is in a cloud. */}}
{{- define "provledger.cloudKeys" -}}
{{- $first := .Values.firstKeys -}}
{{- range list $first.witness $first.checkpoint $first.head $first.receipt $first.recovery -}}
{{- if or (hasPrefix "aws-kms:" .) (hasPrefix "gcp-kms:" .) }}yes{{ end -}}
{{- end -}}
{{- end -}}
